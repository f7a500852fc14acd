// What an ONNX file says of itself, for browsers and node: onnxruntime's JavaScript has no call for it.
//
// An ONNX file is a protobuf message (ModelProto): fields one after another, each a tag (number * 8 + wire type) and a value.
//
// | field | wire type  | what |
// |-------|------------|------|
// | 1     | 0, varint  | version of the format |
// | 7     | 2, length  | graph, which is passed over |
// | 14    | 2, length  | one pair of metadata_props: its field 1 is the key, field 2 the value, both UTF-8 |

const VARINT = 0, EIGHT_BYTES = 1, LENGTH = 2, FOUR_BYTES = 5;
const FORMAT = 1, GRAPH = 7, METADATA = 14, KEY = 1, VALUE = 2;

/**
 * Returns the metadata of an ONNX file as an object of strings.
 * @param {Uint8Array} bytes the whole file
 * @param {string} where what an error names
 * @throws {Error} one line: it is cut short, or no ONNX file
 */
export function readMetadata(bytes, where = "model") {
  const metadata = Object.create(null); // a key may be called __proto__
  let hasFormat = false, hasGraph = false;
  try {
    for (const { field, type, value } of fieldsOf(bytes)) {
      hasFormat ||= field === FORMAT && type === VARINT;
      hasGraph ||= field === GRAPH && type === LENGTH;
      if (field === METADATA && type === LENGTH) {
        const pair = { [KEY]: "", [VALUE]: "" };
        for (const part of fieldsOf(value)) {
          if (part.field in pair && part.type === LENGTH) pair[part.field] = decode(part.value);
        }
        metadata[pair[KEY]] = pair[VALUE];
      }
    }
  } catch (error) {
    throw new Error(`${where}: expected a whole ONNX file; ${error.message}; export it again`);
  }
  if (!hasFormat || !hasGraph) throw new Error(`${where}: expected an ONNX file; found no graph in it; export it again`);
  return metadata;
}

/**
 * Returns the class names in the order of the probabilities.
 * @param {Object<string, string>} metadata of readMetadata
 * @param {string} where what an error names
 * @throws {Error} one line: there are none
 */
export function classesOf(metadata, where = "model") {
  let names = null;
  try {
    names = JSON.parse(metadata["edge_cl.classes"]);
  } catch {
    // absent, or no JSON: said below
  }
  if (!Array.isArray(names) || !names.length || !names.every((name) => typeof name === "string")) {
    throw new Error(`${where}: expected class names in its metadata, edge_cl.classes; found none; export it with edge-cl export`);
  }
  return names;
}

/** Yields the fields of a message: number, wire type, and bytes where the value has a length. */
function* fieldsOf(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let power = 1, n = 0; n < 10; power *= 128, n++) { // * and not <<, which is of 32 bits
      if (at >= bytes.length) throw new Error(`found its end within a number, at byte ${at}`);
      const byte = bytes[at++];
      value += (byte & 127) * power;
      if (byte < 128) return value;
    }
    throw new Error(`found no number at byte ${at - 10}`);
  };
  while (at < bytes.length) {
    const start = at, tag = varint();
    const field = Math.floor(tag / 8), type = tag % 8;
    let value = null, end = at;
    if (type === VARINT) {
      varint();
      end = at;
    } else if (type === LENGTH) {
      const length = varint();
      end = at + length;
      value = bytes.subarray(at, end);
    } else if (type === EIGHT_BYTES || type === FOUR_BYTES) {
      end = at + (type === EIGHT_BYTES ? 8 : 4);
    } else {
      throw new Error(`found a field of unknown type at byte ${start}`);
    }
    if (field === 0) throw new Error(`found a field without a number at byte ${start}`);
    if (end > bytes.length) throw new Error(`found ${bytes.length} bytes of at least ${end}`);
    at = end;
    yield { field, type, value };
  }
}

function decode(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Error("found metadata that is no UTF-8");
  }
}
