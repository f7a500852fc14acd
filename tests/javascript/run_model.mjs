// Runs a model with onnxruntime-node, or with onnxruntime-web in node, and prints what it gives as JSON.
//
// node run_model.mjs PACKAGE MODEL < feeds.json
//
// feeds.json is [{name: {"type": "float32", "dims": [1, 4], "base64": raw values}}, ...], one object a run. Packages are found in the
// folder EDGE_CL_NODE_MODULES, where modules of this folder would not look for them.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { classesOf, readMetadata } from "../../tools/web_demo/onnx_metadata.mjs";

const [name, path] = process.argv.slice(2);
const ort = createRequire(`${process.env.EDGE_CL_NODE_MODULES}/`)(name);
ort.env.logLevel = "error"; // initializers that may be replaced are warned of
const model = readFileSync(path), metadata = readMetadata(model, path);
const session = await ort.InferenceSession.create(model, { executionProviders: [name === "onnxruntime-web" ? "wasm" : "cpu"] });
const ARRAYS = { float32: Float32Array, uint8: Uint8Array };

function tensorOf({ type, dims, base64 }) {
  const bytes = Uint8Array.from(Buffer.from(base64, "base64")); // a copy, so that it is aligned
  return new ort.Tensor(type, new ARRAYS[type](bytes.buffer), dims);
}

async function run(feeds) {
  const inputs = Object.fromEntries(Object.entries(feeds).map(([input, value]) => [input, tensorOf(value)]));
  const found = Object.entries(await session.run(inputs));
  return Object.fromEntries(found.map(([output, { dims, data }]) => [output, { dims, values: Array.from(data, Number) }]));
}

const answers = [];
for (const feeds of JSON.parse(readFileSync(0, "utf8"))) answers.push(await run(feeds).catch((error) => ({ error: error.message })));
const classes = "edge_cl.classes" in metadata ? classesOf(metadata, path) : null;
process.stdout.write(JSON.stringify({ answers, classes, inputs: session.inputNames, metadata }));
