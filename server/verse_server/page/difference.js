// Where one poem differs from another, character by character (Myers 1986).

const MAX_CHANGES = 300;

/**
 * The second text in runs: `{ text, same }`. Texts that have little in common differ as a whole
 * between the beginning and the end that they share.
 */
export function difference(before, after) {
  const a = Array.from(before), b = Array.from(after);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a.at(-1 - end) === b.at(-1 - end)) end += 1;
  const flags = changed(a.slice(start, a.length - end), b.slice(start, b.length - end));
  const same = [...Array(start).fill(true), ...flags.map((flag) => !flag), ...Array(end).fill(true)];
  const runs = [];
  b.forEach((character, index) => {
    const last = runs.at(-1);
    if (last?.same === same[index]) last.text += character;
    else runs.push({ text: character, same: same[index] });
  });
  return runs;
}

/** For each character of b, whether it is not in a. */
function changed(a, b) {
  const flags = Array(b.length).fill(true);
  const trace = shortest(a, b);
  if (trace === null) return flags;
  let x = a.length, y = b.length;
  for (let d = trace.length - 1; d >= 0; d -= 1) {
    const reach = trace[d], k = x - y;
    const isDown = k === -d || (k !== d && at(reach, k - 1) < at(reach, k + 1));
    const from = isDown ? k + 1 : k - 1;
    const fromX = d === 0 ? 0 : at(reach, from), fromY = d === 0 ? 0 : fromX - from;
    while (x > fromX && y > fromY) {
      x -= 1;
      y -= 1;
      flags[y] = false;
    }
    x = fromX;
    y = fromY;
  }
  return flags;
}

/** How far each diagonal reached before each step; null if the texts are too far apart. */
function shortest(a, b) {
  let reach = new Map([[1, 0]]);
  const trace = [];
  for (let d = 0; d <= Math.min(a.length + b.length, MAX_CHANGES); d += 1) {
    trace.push(new Map(reach));
    for (let k = -d; k <= d; k += 2) {
      const isDown = k === -d || (k !== d && at(reach, k - 1) < at(reach, k + 1));
      let x = isDown ? at(reach, k + 1) : at(reach, k - 1) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      reach.set(k, x);
      if (x >= a.length && x - k >= b.length) return trace;
    }
  }
  return null;
}

function at(reach, k) {
  return reach.get(k) ?? -1;
}
