// Which slices a reader is shown first. Knows no OHIF.

// As the server's `top_slices`, which counts along all axes; these are slices that the viewer can scroll to.
const BEST = 5;
const APART = 3;

/** The slices of a map along the third axis with the highest mean, best first: [{index, score}]. */
export function rankedSlices(grid, values) {
  const size = grid.size[0] * grid.size[1];
  const scores = Array.from({ length: grid.size[2] }, (_, index) => {
    let sum = 0;
    for (let at = index * size; at < (index + 1) * size; at += 1) sum += values[at];
    return { index, score: sum / size };
  });
  const chosen = [];
  for (const one of scores.sort((a, b) => b.score - a.score || a.index - b.index)) {
    if (chosen.length === BEST) break;
    if (chosen.every((other) => Math.abs(other.index - one.index) >= APART)) chosen.push(one);
  }
  return chosen;
}
