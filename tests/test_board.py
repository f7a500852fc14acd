"""What a speed was measured on, read from trees of files as boards have them."""

from __future__ import annotations

import re
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_cl.bench.board import (
    UNAVAILABLE,
    board_of,
    clocks_of,
    describe_machine,
    load_of,
    resident_peak_bytes,
    temperature_of,
    versions_of,
)
from edge_cl.bench.energy import LEAST_SECONDS, PowerLog, Rail, find_rail, joules_within

ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\n",
    "proc/meminfo": "MemTotal:        7802944 kB\nMemFree:          200000 kB\n",
    "proc/loadavg": "1.52 0.58 0.59 1/389 2345\n",
    "proc/self/status": "Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t  123456 kB\nVmRSS:\t  100000 kB\n",
    "var/lib/nvpmodel/status": "pmode:0001",
    "etc/nvpmodel.conf": (
        "# < POWER_MODEL ID=1 NAME=WRONG >\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
        "< POWER_MODEL ID=1 NAME=25W >\nCPU_ONLINE CORE_0 1\n< PM_CONFIG DEFAULT=1 >\n"
    ),
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1344000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1344000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    "sys/class/devfreq/15340000.vic/max_freq": "1000000000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51125\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    "sys/class/thermal/thermal_zone7/type": "PMIC-Die\n",
    "sys/class/thermal/thermal_zone7/temp": "100000\n",
    "sys/class/thermal/thermal_zone8/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone8/temp": "52343\n",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5040\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1250\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "5040\n",
    "sys/class/hwmon/hwmon1/curr2_input": "400\n",
    "sys/class/hwmon/hwmon1/in3_label": "VDD_SOC\n",
    "sys/class/hwmon/hwmon1/in3_input": "5040\n",
    "sys/class/hwmon/hwmon1/curr3_input": "300\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
}
AGX_RAILS = {
    "sys/class/hwmon/hwmon1/in1_label": "VDD_GPU_SOC\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_CV\n",
    "sys/class/hwmon/hwmon1/in3_label": "VIN_SYS_5V0\n",
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_jetson_says_its_model_mode_and_limits(tmp_path: Path) -> None:
    root = plant(tmp_path, ORIN_NANO)
    assert board_of(root) == "NVIDIA Jetson Orin Nano Developer Kit"
    assert clocks_of(root) == {
        "nvpmodel": "25W (mode 1)",
        "governor": "schedutil",
        "cpu_limit_mhz": 1344.0,
        "gpu_limit_mhz": 918.0,
    }
    assert versions_of(root)["l4t"] == "36.4.7"
    assert describe_machine(root)["memory_bytes"] == 7802944 * 1024
    assert resident_peak_bytes(root) == 123456 * 1024
    assert load_of(root) == 1.52


@pytest.mark.parametrize(
    ("status", "said"),
    [("pmode:0002 fmode:quiet\n", "mode 2"), ("pmode:0000", "15W (mode 0)"), ("", UNAVAILABLE), ("x", UNAVAILABLE)],
)
def test_the_mode_is_the_saved_one(tmp_path: Path, status: str, said: str) -> None:
    root = plant(tmp_path, {**ORIN_NANO, "var/lib/nvpmodel/status": status})
    assert clocks_of(root)["nvpmodel"] == said


def test_the_temperature_is_that_of_the_junction_else_of_the_processor(tmp_path: Path) -> None:
    root = plant(tmp_path, ORIN_NANO)
    assert temperature_of(root) == {"celsius": 52.343, "zone": "tj-thermal"}
    (root / "sys/class/thermal/thermal_zone8/temp").unlink()
    (root / "sys/class/thermal/thermal_zone8/temp").mkdir()  # reading it fails, as that of a zone that is off
    assert temperature_of(root) == {"celsius": 51.125, "zone": "cpu-thermal"}


def test_where_there_is_nothing_to_read_nothing_is_zero(tmp_path: Path) -> None:
    facts = describe_machine(tmp_path)
    assert set(facts["clocks"].values()) == {UNAVAILABLE}
    assert (
        facts["memory_bytes"]
        == temperature_of(tmp_path)
        == resident_peak_bytes(tmp_path)
        == load_of(tmp_path)
        == UNAVAILABLE
    )
    assert facts["board"]
    assert facts["versions"]["l4t"] == UNAVAILABLE
    assert find_rail(tmp_path) is None


def test_on_this_machine_the_board_is_the_kernels_word() -> None:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if Path("/proc/device-tree/model").exists() or not found:
        pytest.skip("another kind of machine")
    assert board_of() == found[1].strip()
    size = resident_peak_bytes()
    assert isinstance(size, int)
    assert size > 10**7  # numpy alone is more


def test_one_total_rail_is_read_and_never_a_sum(tmp_path: Path) -> None:
    rail = find_rail(plant(tmp_path, ORIN_NANO))
    assert rail is not None
    assert rail.label == "VDD_IN"
    assert rail.watts() == pytest.approx(5.040 * 1.250)


@pytest.mark.parametrize(
    "files",
    [
        ORIN_NANO | AGX_RAILS,  # no rail of it carries all
        ORIN_NANO | {"sys/class/hwmon/hwmon1/name": "ina260\n"},
    ],
)
def test_without_a_total_rail_energy_is_unavailable(tmp_path: Path, files: dict[str, str]) -> None:
    rail = find_rail(plant(tmp_path, files))
    assert rail is None
    with PowerLog(rail) as log:
        pass
    assert log.joules([(0.0, 10.0)]) is None


def test_the_total_rail_may_be_on_any_monitor_and_channel(tmp_path: Path) -> None:
    more = {"name": "ina3221", "in3_label": "POM_5V_IN", "in3_input": "5000", "curr3_input": "2000"}
    files = ORIN_NANO | AGX_RAILS | {f"sys/class/hwmon/hwmon9/{name}": text for name, text in more.items()}
    rail = find_rail(plant(tmp_path, files))
    assert rail is not None
    assert (rail.label, rail.channel, rail.watts()) == ("POM_5V_IN", 3, 10.0)


def test_a_rail_that_does_not_answer_has_no_power(tmp_path: Path) -> None:
    rail = find_rail(plant(tmp_path, ORIN_NANO))
    assert rail is not None
    (tmp_path / "sys/class/hwmon/hwmon1/curr1_input").write_text("")
    assert rail.watts() is None
    with PowerLog(rail) as log:
        span = (time.perf_counter(), time.perf_counter() + 1)
    assert log.joules([span]) is None


def test_a_constant_power_times_the_time_is_the_energy(tmp_path: Path) -> None:
    rail = find_rail(plant(tmp_path, ORIN_NANO))
    with PowerLog(rail) as log:
        start = time.perf_counter()
        time.sleep(1.5 * LEAST_SECONDS)
        end = time.perf_counter()
    found = log.joules([(start, end)])
    assert found == pytest.approx(6.3 * (end - start))
    assert log.joules([(start, start + LEAST_SECONDS / 2)]) is None  # too short for the monitor


def test_the_log_reads_while_the_work_goes_on(tmp_path: Path) -> None:
    class Counter(Rail):
        def watts(self) -> float:
            seen.append(1)
            if len(seen) == 5:
                enough.set()
            return 1.0

    seen: list[int] = []
    enough = threading.Event()
    with PowerLog(Counter("VDD_IN", tmp_path, 1)):
        assert enough.wait(60)


Readings = list[tuple[float, float]]


@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(0, 60)), min_size=2, max_size=20), st.data())
def test_energy_is_the_area_under_the_readings(steps: Readings, data: st.DataObject) -> None:
    times = np.cumsum([step for step, _ in steps])
    readings = [(float(t), watts) for t, (_, watts) in zip(times, steps, strict=True)]
    cuts = sorted(data.draw(st.lists(st.floats(float(times[0]), float(times[-1])), max_size=4)))
    edges = [float(times[0]), *cuts, float(times[-1])]
    parts = [joules_within(readings, [(a, b)]) for a, b in pairwise(edges)]
    watts = [w for _, w in readings]
    area = sum((watts[n] + watts[n + 1]) / 2 * (times[n + 1] - times[n]) for n in range(len(watts) - 1))
    assert sum(parts) == pytest.approx(area, abs=1e-9)  # whatever the time is cut into
    assert joules_within(readings, list(pairwise(edges))) == pytest.approx(area, abs=1e-9)
    assert all(part >= -1e-12 for part in parts)
