// NRRD in and out: three axes, 8-bit or float voxels, gzip; positions in millimeters, left-posterior-superior,
// which is also DICOM's. A grid is {size: [x, y, z], steps: [x, y, z vectors in mm], origin}; the first axis
// runs fastest.

const ARRAYS = {
  uint8: Uint8Array, uchar: Uint8Array, 'unsigned char': Uint8Array, uint8_t: Uint8Array,
  int8: Int8Array, 'signed char': Int8Array, int8_t: Int8Array,
  uint16: Uint16Array, ushort: Uint16Array, 'unsigned short': Uint16Array, uint16_t: Uint16Array,
  int16: Int16Array, short: Int16Array, int16_t: Int16Array,
  float: Float32Array, double: Float64Array,
};
// Signs that bring the first two coordinates of a space to left-posterior-superior.
const SPACES = {
  'left-posterior-superior': [1, 1], lps: [1, 1],
  'right-anterior-superior': [-1, -1], ras: [-1, -1],
  'left-anterior-superior': [1, -1], las: [1, -1],
};

const through = async (bytes, stream) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());

const vector = (text) => text.replace(/[()\s]/g, '').split(',').map(Number);

/** Read NRRD bytes: {grid, values}; throws an Error for what is not a volume as the server writes them. */
export async function readNrrd(bytes) {
  const end = headEnd(bytes);
  const fields = new Map();
  for (const line of new TextDecoder().decode(bytes.subarray(0, end)).split(/\r?\n/).slice(1)) {
    const [, name, value] = /^([^#:]+):=?\s*(.*)$/.exec(line) ?? [];
    if (name) fields.set(name.trim().toLowerCase(), value.trim());
  }
  const size = (fields.get('sizes') ?? '').split(/\s+/).map(Number);
  const ArrayType = ARRAYS[fields.get('type')];
  const signs = SPACES[(fields.get('space') ?? 'lps').toLowerCase()];
  const directions = (fields.get('space directions') ?? '').match(/\([^)]*\)/g);
  if (size.length !== 3 || !ArrayType || !signs || directions?.length !== 3) {
    throw new Error('The server answered with an NRRD that is no volume in a patient.');
  }
  const toLps = ([x, y, z]) => [signs[0] * x, signs[1] * y, z];
  const grid = {
    size,
    steps: directions.map(vector).map(toLps),
    origin: toLps(vector(fields.get('space origin') ?? '0,0,0')),
  };
  let voxels = bytes.subarray(end);
  if (/^gz/.test(fields.get('encoding'))) voxels = await through(voxels, new DecompressionStream('gzip'));
  const length = size[0] * size[1] * size[2];
  if (voxels.byteLength < length * ArrayType.BYTES_PER_ELEMENT) {
    throw new Error('The server\'s answer was cut short; try again.');
  }
  // Copied: a typed array starts only at a multiple of its element's size.
  const values = new ArrayType(voxels.slice(0, length * ArrayType.BYTES_PER_ELEMENT).buffer);
  return { grid, values };
}

/** Where the voxels start: after the first empty line. */
function headEnd(bytes) {
  for (let at = 0; at < Math.min(bytes.length, 65536); at += 1) {
    if (bytes[at] !== 10) continue;
    if (bytes[at + 1] === 10) return at + 2;
    if (bytes[at + 1] === 13 && bytes[at + 2] === 10) return at + 3;
  }
  throw new Error('The server answered with something else than an NRRD.');
}

/** NRRD bytes of 8-bit voxels on a grid. */
export async function writeNrrd({ size, steps, origin }, values) {
  // Every digit that a number has: two grids are the same within a thousandth of a millimeter only.
  const shown = (point) => `(${point.map((value) => String(value)).join(',')})`;
  const head = [
    'NRRD0004', 'type: uint8', 'dimension: 3', 'space: left-posterior-superior', `sizes: ${size.join(' ')}`,
    `space directions: ${steps.map(shown).join(' ')}`, 'kinds: domain domain domain', 'encoding: gzip',
    `space origin: ${shown(origin)}`, '', '',
  ].join('\n');
  const packed = await through(values, new CompressionStream('gzip'));
  const start = new TextEncoder().encode(head);
  const bytes = new Uint8Array(start.length + packed.length);
  bytes.set(start);
  bytes.set(packed, start.length);
  return bytes;
}
