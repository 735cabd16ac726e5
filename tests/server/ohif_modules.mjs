// Runs our viewer modules on a case from stdin, and prints what they make of it: node ohif_modules.mjs FOLDER
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const folder = process.argv[2];
const load = (name) => import(pathToFileURL(`${folder}/${name}.js`));
const { readNrrd, writeNrrd } = await load('nrrd');
const { carried } = await load('grids');
const { color } = await load('heat');
const { rankedSlices } = await load('slices');
const task = JSON.parse(readFileSync(0, 'utf8'));
const answer = {};
try {
  if (task.nrrd) {
    const { grid, values } = await readNrrd(Uint8Array.from(Buffer.from(task.nrrd, 'base64')));
    answer.grid = grid;
    answer.values = [...values];
    answer.type = values.constructor.name;
    if (task.target) {
      const moved = carried(values, grid, task.target);
      answer.moved = [...moved];
      answer.written = Buffer.from(await writeNrrd(task.target, Uint8Array.from(moved))).toString('base64');
    }
  }
  if (task.means) {
    const grid = { size: [2, 1, task.means.length] };
    answer.slices = rankedSlices(grid, task.means.flatMap((mean) => [mean - 0.25, mean + 0.25]));
  }
  if (task.colors) answer.colors = task.colors.map(color);
} catch (error) {
  answer.error = error.message;
}
console.log(JSON.stringify(answer));
