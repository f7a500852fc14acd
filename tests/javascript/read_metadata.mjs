// Prints what onnx_metadata.mjs says of each of some byte strings, as JSON: {"metadata": {...}} or {"error": "one line"}.
//
// node read_metadata.mjs < base64.json, a list of strings

import { readFileSync } from "node:fs";
import { classesOf, readMetadata } from "../../tools/web_demo/onnx_metadata.mjs";

const found = JSON.parse(readFileSync(0, "utf8")).map((text) => {
  const bytes = Uint8Array.from(Buffer.from(text, "base64"));
  try {
    const metadata = readMetadata(bytes, "cam.onnx");
    try {
      return { metadata, classes: classesOf(metadata, "cam.onnx") };
    } catch (error) {
      return { metadata, error: error.message };
    }
  } catch (error) {
    return { error: error.message };
  }
});
process.stdout.write(JSON.stringify(found));
