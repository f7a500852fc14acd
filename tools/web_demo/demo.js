// The page: a model and an image are chosen, in any order and again; the answer of the one to the other is shown.

import { classesOf, readMetadata } from "./onnx_metadata.mjs";

const TOP = 5, PROBE_SIDE = 16;
const EXPORT = "edge-cl export cam.ecl cam.onnx --preprocess";
const $ = (id) => document.getElementById(id);

const ort = await openRuntime();
let model = null; // { session, classes, version, where }
let image = null; // { pixels, height, width, where }
let last = Promise.resolve(); // one thing at a time, in the order of asking

/** Returns onnxruntime-web from `ort/` beside the page, or from where `?ort=URL` says; null where it is not. */
async function openRuntime() {
  const asked = new URLSearchParams(location.search).get("ort") ?? "ort/";
  const folder = new URL(asked.endsWith("/") ? asked : `${asked}/`, location.href).href;
  try {
    const runtime = await import(`${folder}ort.wasm.min.mjs`);
    runtime.env.wasm.wasmPaths = folder;
    if (!crossOriginIsolated) runtime.env.wasm.numThreads = 1; // threads need shared memory, which needs two headers
    return runtime;
  } catch (error) {
    fail(new Error(`${folder}: expected the files of onnxruntime-web's dist; found ${lineOf(error)}; see README.md beside this page`));
    return null;
  }
}

/** Returns a model that has opened and has answered: to the image that is there, or to a grey one. */
async function openModel(file, shown) {
  const bytes = new Uint8Array(await file.arrayBuffer()), where = file.name;
  const metadata = readMetadata(bytes, where);
  if (metadata["edge_cl.head"] === "regression") throw new Error(`${where}: gives values; this page shows classes`);
  const classes = classesOf(metadata, where);
  let session;
  try {
    session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Error(`${where}: onnxruntime-web cannot open it: ${lineOf(error)}`);
  }
  try {
    const { inputNames } = session;
    if (inputNames.length !== 1 || inputNames[0] !== "image") {
      throw new Error(`${where}: expected the input image; found ${inputNames.join(", ")}; export it as in: ${EXPORT}`);
    }
    if (!session.outputNames.includes("probabilities")) {
      throw new Error(`${where}: expected the output probabilities; found ${session.outputNames.join(", ")}; export it as in: ${EXPORT}`);
    }
    const opened = { session, classes, version: metadata["edge_cl.version"] ?? "unknown", where };
    const grey = { pixels: new Uint8Array(PROBE_SIDE * PROBE_SIDE * 3).fill(128), height: PROBE_SIDE, width: PROBE_SIDE };
    await probabilitiesOf(opened, shown ?? grey); // also warms up: the first run allocates
    return opened;
  } catch (error) {
    await session.release();
    throw error;
  }
}

/** Returns the K probabilities of one image, Float32Array. */
async function probabilitiesOf({ session, classes, where }, { pixels, height, width }) {
  const input = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  let found;
  try {
    found = (await session.run({ image: input }, ["probabilities"])).probabilities.data;
  } catch (error) {
    throw new Error(`${where}: cannot answer: ${lineOf(error)}`);
  }
  if (found.length !== classes.length) {
    throw new Error(`${where}: expected ${classes.length} probabilities, one a class; found ${found.length}; export it again`);
  }
  if (!found.every((value) => value >= 0 && value <= 1)) {
    throw new Error(`${where}: expected probabilities; found values outside 0 to 1; export it again`);
  }
  return found;
}

/** Returns the pixels of an image file as edge_cl sees them: turned as EXIF says, over white, RGB; and draws them. */
async function openImage(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name}: expected an image; this browser cannot decode it`);
  }
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data, pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    pixels[to++] = rgba[from];
    pixels[to++] = rgba[from + 1];
    pixels[to++] = rgba[from + 2];
  }
  canvas.role = "img";
  canvas.ariaLabel = file.name;
  return { pixels, height, width, canvas, where: file.name };
}

/** Shows the answer of a model to an image. */
async function answer(model, image) {
  const start = performance.now();
  const probabilities = await probabilitiesOf(model, image);
  const ms = performance.now() - start;
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b).slice(0, TOP);
  $("best").textContent = model.classes[order[0]];
  $("classes").replaceChildren(...order.map((k) => rowOf(model.classes[k], probabilities[k])));
  $("version").textContent = model.version;
  $("n-classes").textContent = model.classes.length;
  $("time").textContent = `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
  $("preview").replaceChildren(image.canvas);
  $("answer").hidden = false;
}

/** Returns a line of the answer; names are set as text, never as HTML. */
function rowOf(name, probability) {
  const row = document.createElement("li"), percent = `${(100 * probability).toFixed(1)} %`;
  row.dataset.probability = probability;
  const part = (parent, className, text) => {
    const element = parent.appendChild(document.createElement(parent === row && text ? "span" : "div"));
    element.className = className;
    element.textContent = text;
    return element;
  };
  Object.assign(part(row, "class", name), { dir: "auto", title: name.slice(0, 200) });
  part(row, "probability", percent);
  const track = part(row, "track", "");
  track.ariaHidden = "true";
  part(track, "bar", "").style.width = percent.replace(" ", "");
  return row;
}

async function takeModel(file) {
  const opened = await openModel(file, image);
  if (image) await answer(opened, image);
  const old = model;
  model = opened;
  $("model-name").textContent = `${model.where}, version ${model.version}`;
  await old?.session.release();
}

async function takeImage(file) {
  const opened = await openImage(file);
  if (model) await answer(model, opened);
  image = opened;
  $("image-name").textContent = `${image.where}, ${image.width} x ${image.height}`;
}

/** Opens a file after whatever was asked before; what cannot be opened changes nothing but the line that says so. */
function take(file, isModel) {
  last = last.then(async () => {
    $("error").hidden = true;
    $("status").textContent = `Opening ${file.name}`;
    try {
      await (isModel ? takeModel(file) : takeImage(file));
    } catch (error) {
      fail(error);
    }
    $("status").textContent = wanted();
  });
}

function wanted() {
  if (!model) return "Choose a model.";
  return image ? `${model.where} on ${image.where}` : "Choose an image.";
}

function fail(error) {
  $("error").textContent = lineOf(error);
  $("error").hidden = false;
}

function lineOf(error) {
  return String(error?.message ?? error).trim().split("\n")[0].slice(0, 400);
}

function listen() {
  for (const [id, isModel] of [["model", true], ["image", false]]) {
    const takeChosen = () => {
      for (const file of $(id).files) take(file, isModel);
      $(id).value = ""; // so that the same path, exported anew, can be chosen again
    };
    $(id).addEventListener("change", takeChosen);
    takeChosen(); // what was chosen while onnxruntime-web was loading
  }
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") for (const file of event.dataTransfer.files) take(file, /\.onnx$/i.test(file.name));
    });
  }
  last.then(() => ($("status").textContent = wanted()));
  document.body.dataset.ready = "yes";
}

if (ort) listen();
else $("status").hidden = true;
