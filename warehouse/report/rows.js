// The page's tables, what its reader chose, and the rows that follow from both.

const parsed = id => JSON.parse(document.getElementById(id).textContent);

/** A list of objects, of columns in which texts are places among the distinct ones. */
function unpacked(columns) {
  const names = Object.keys(columns);
  if (!names.length) return [];
  const values = names.map(name => columns[name].codes
    ? columns[name].codes.map(code => code < 0 ? null : columns[name].names[code]) : columns[name]);
  return values[0].map((_, at) => Object.fromEntries(names.map((name, column) => [name, values[column][at]])));
}

const about = parsed('about');
const tables = Object.fromEntries(Object.entries(parsed('tables')).map(([name, columns]) => [name, unpacked(columns)]));
const FILTERS = Object.keys(about.filters);
for (const row of tables.campaigns) {
  // A line each: no phrase goes from one to the next.
  row.searched = [row.label, row.model, row.backend, row.hardware, row.study, row.experiment].filter(Boolean).join('\n').toLowerCase();
}

const chosen = {
  filters: Object.fromEntries(FILTERS.map(name => [name, new Set()])),
  find: '', rankBy: null, from: 0, work: 0, trace: 0, pair: 0, ratio: 0, picked: new Set(),
};
const measured = key => tables.campaigns.some(row => row[`${key}_mean`] !== null);
const usable = about.metrics.filter(metric => measured(metric.key));
chosen.rankBy = usable.length ? usable[0].key : 'energy';

/** What follows from the choice: campaigns that are kept, their ranks in the window, and the work and run that are drawn. */
let now = {};

function follow() {
  const wanted = wantedBy(chosen.find);
  const kept = tables.campaigns.filter(row =>
    FILTERS.every(name => !chosen.filters[name].size || chosen.filters[name].has(row[name]))
    && wanted.every(isIn => isIn(row)));
  const field = `${chosen.rankBy}_mean`;
  const sign = about.metrics.find(metric => metric.key === chosen.rankBy).less ? 1 : -1;
  let ranked = [...kept].sort((a, b) =>
    (a[field] === null) - (b[field] === null) || sign * (a[field] - b[field]) || a.c - b.c);
  if (chosen.picked.size) ranked = ranked.filter(row => chosen.picked.has(row.c));
  chosen.from = Math.max(0, Math.min(chosen.from, Math.floor((ranked.length - 1) / about.window) * about.window));
  const drawn = ranked.slice(chosen.from, chosen.from + about.window);
  now = {
    kept, ranked, drawn,
    isWhole: kept.length === tables.campaigns.length,
    keptPlaces: new Set(kept.map(row => row.c)),
    ranks: new Map(drawn.map((row, at) => [row.c, at + 1])),
    cycles: 0,
  };
  now.cycles = tables.cycles.reduce((count, row) => count + now.keptPlaces.has(row.c), 0);
  now.left = {
    work: new Set(kept.map(row => row.work).filter(work => work !== null && work < about.works).sort((a, b) => a - b)),
    // A large page may lack the campaign of a run.
    trace: new Set(tables.runs.filter(row => now.isWhole || now.keptPlaces.has(row.c)).map(row => row.trace)),
  };
}

/** What a campaign has for each word that is looked for; a word and the number behind it are a phrase. */
function wantedBy(text) {
  const isNumber = word => /^\d+$/.test(word), wanted = [];
  // As the table says a hash below a name, and as `--compare` takes a setting.
  const words = text.toLowerCase().replace(/(?<=^|\s)(config|campaign)\s+(?=[0-9a-f]{4})/g, '').split(/[\s=]+/);
  for (const word of words.filter(Boolean)) {
    const last = wanted.at(-1);
    if (last?.length === 1 && isNumber(word) && !isNumber(last[0])) last.push(word);
    else wanted.push([word]);
  }
  return wanted.map(([word, behind]) => {
    const number = behind ?? (isNumber(word) ? '' : null);
    const beginning = /^[\p{L}\p{N}]/u.test(word) ? '(?<![\\p{L}\\p{N}])' : '';
    const gap = behind ? '[\\p{L}\\p{N}]*[^\\p{L}\\p{N}\\n]+' : '';
    const sought = new RegExp(beginning + word.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&') + gap + (number === null ? '' : `${number}(?![\\p{L}\\p{N}])`), 'u');
    const isId = !behind && /^[0-9a-f]{4,}$/.test(word);
    return row => sought.test(row.searched) || isId && [row.hash, row.id].some(id => id?.startsWith(word));
  });
}

/** The place of the pair, work and so on that is drawn: the reader's choice, or the first that the filters leave; -1 is none. */
function drawnOf(name) {
  const left = now.left[name];
  return !left || left.has(chosen[name]) ? chosen[name] : [...left][0] ?? -1;
}

/** Whether a row is in the scope of a data set. */
const IN_SCOPE = {
  window: row => now.ranks.has(row.c),
  kept: row => now.keptPlaces.has(row.c),
  work: row => now.keptPlaces.has(row.c) && tables.campaigns[row.c].work === drawnOf('work'),
  run: row => row.trace === drawnOf('trace'),
  pair: row => row.pair === chosen.pair,
  ratio: row => row.at === chosen.ratio,
  gpu: row => !chosen.filters.gpu.size || chosen.filters.gpu.has(row.gpu),
};

/** Rows of a data set: fields of a row's own, or else of its campaign; none in which what it needs is not known. */
function rowsOf(source) {
  const rows = [];
  for (const row of tables[source.table]) {
    if (!IN_SCOPE[source.scope](row)) continue;
    const campaign = source.table === 'cycles' ? tables.campaigns[row.c] : null;
    const made = {};
    for (const field of source.fields) made[field] = field in row ? row[field] : campaign ? campaign[field] : null;
    if (source.scope === 'window') made.rank = now.ranks.get(row.c);
    if (source.needs.every(field => made[field] !== null)) rows.push(made);
  }
  if (source.scope === 'work' && tables.campaigns.some(row => row.work === drawnOf('work') && !now.keptPlaces.has(row.c))) {
    const key = source.needs.find(field => field !== 'energy_mean').replace('_mean', '');
    markFront(rows, key);
    nameFront(rows, key);
  }
  return rows;
}

/** The front of these rows, by the rule of `mark_fronts`: none beats those on it in both, simulated GPUs apart. */
function markFront(rows, key) {
  const mean = `${key}_mean`, sign = about.metrics.find(metric => metric.key === key).less ? 1 : -1, last = {};
  for (const row of [...rows].sort((a, b) => sign * (a[mean] - b[mean]) || a.energy_mean - b.energy_mean)) {
    const before = last[row.simulated];
    const isOn = !before || row.energy_mean < before.energy_mean || row.energy_mean === before.energy_mean && row[mean] === before[mean];
    if (isOn) last[row.simulated] = row;
    row[`${key}_front`] = Number(isOn);
  }
}

/** Names of a front's points, by the rule of `name_fronts`: both ends, then those that lie apart. */
function nameFront(rows, key) {
  const {most, apart, beside, logarithmic} = about.fronts;
  const front = rows.filter(row => row[`${key}_front`]).sort((a, b) => a.energy_mean - b.energy_mean);
  const [across, upright] = [key, 'energy'].map((one, axis) => {
    const on = logarithmic[key][axis] ? Math.log : Number;
    const drawn = rows.flatMap(row => [row[`${one}_mean`], row[`${one}_lo`], row[`${one}_hi`]]).filter(value => value !== null && (on === Number || value > 0)).map(on);
    const low = Math.min(...drawn), span = Math.max(...drawn) - low || 1;
    return row => (on(row[`${one}_mean`]) - low) / span;
  });
  const ends = new Set([false, true].flatMap(simulated => {
    const side = front.filter(row => Boolean(row.simulated) === simulated);
    return side.length ? [side[0], side[side.length - 1]] : [];
  }));
  const heights = new Map();
  for (const row of [...ends, ...front.filter(row => !ends.has(row))]) {
    for (const side of ends.has(row) ? [-beside, beside] : [-beside]) {
      const height = upright(row) + side;
      const isApart = ([other, its]) => Math.abs(height - its) >= apart[1]
        || !(ends.has(row) && ends.has(other)) && Math.abs(across(row) - across(other)) >= apart[0];
      if (heights.has(row) || heights.size >= most || ![...heights].every(isApart)) continue;
      heights.set(row, height);
      row[`${key}_above`] = Number(side > 0);
    }
  }
  for (const row of rows) row[`${key}_name`] = heights.has(row) ? row.short : null;
}
