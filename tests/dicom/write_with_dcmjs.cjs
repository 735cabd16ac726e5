// Writes a DICOM SEG with dcmjs, the library behind OHIF: node write_with_dcmjs.cjs DCMJS JOB.json OUT.dcm
// JOB: {files: [path], slices: [{position: [x, y, z], pixels: base64}], segments: [metadata], rle: bool}
const fs = require("fs");
const [, , library, jobFile, outFile] = process.argv;
const dcmjs = require(library);
const job = JSON.parse(fs.readFileSync(jobFile));
const { DicomMessage, DicomMetaDictionary } = dcmjs.data;

function bytesOf(path) {
  const content = fs.readFileSync(path);
  return content.buffer.slice(content.byteOffset, content.byteOffset + content.byteLength);
}

const images = job.files.map((path) => ({ imageId: path, data: { byteArray: { buffer: bytesOf(path) } } }));
const datasets = images.map((image) => {
  const read = DicomMessage.readFile(image.data.byteArray.buffer);
  const dataset = DicomMetaDictionary.naturalizeDataset(read.dict);
  dataset._meta = DicomMetaDictionary.namifyDataset(read.meta);
  return dataset;
});
const frames = dcmjs.normalizers.Normalizer.normalizeToDataset(datasets).PerFrameFunctionalGroupsSequence;
const distance = (a, b) => Math.hypot(...a.map((value, axis) => value - b[axis]));
const labelmaps2D = frames.map((frame) => {
  const position = [frame.PlanePositionSequence].flat()[0].ImagePositionPatient.map(Number);
  const slice = job.slices.reduce((x, y) => (distance(y.position, position) < distance(x.position, position) ? y : x));
  const pixelData = new Uint8Array(Buffer.from(slice.pixels, "base64"));
  return { pixelData, segmentsOnLabelmap: [...new Set(pixelData)].filter((value) => value !== 0) };
});
const metadata = [undefined, ...job.segments];
const blob = dcmjs.adapters.Cornerstone.Segmentation.generateSegmentation(images, { labelmaps2D, metadata }, { rleEncode: job.rle });
blob.arrayBuffer().then((buffer) => fs.writeFileSync(outFile, Buffer.from(buffer)));
