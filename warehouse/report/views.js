// The charts: drawn once, then given other rows; zoomed by mouse, button and key; saved as files.

const views = {};
let updating = Promise.resolve();
const CANVAS_FROM = 1000;
const TABLE_ROWS = 200;
const PRINTED_WIDTH = 540;
// Of an axis, how many times as much can be seen as at first, and what part at least.
const FARTHEST_OUT = 10, FARTHEST_IN = 1e-7;
// Of a line's height on a screen, without what more lines of text take.
const PRINTED_STEP = 0.85;
const darkScheme = matchMedia('(prefers-color-scheme: dark)');
const isDark = () => (document.documentElement.dataset.theme || (darkScheme.matches ? 'dark' : 'light')) === 'dark';
const hostOf = name => document.getElementById(`c-${name}`);

/** A label in as many lines as it takes in a chart of this width, by the rule of `lines_of`. */
function linesOf(label, width) {
  const {separator, letter, margin} = about.labels, longest = Math.floor((width - margin) / letter), lines = [];
  for (const part of label.split(separator)) {
    const longer = lines.length ? lines[lines.length - 1] + separator + part : '';
    if (longer && longer.length <= longest) lines[lines.length - 1] = longer;
    else lines.push(part);
  }
  return lines;
}

/** As high as there are lines, each with room for the longest label: by the rule of `height_of`. */
function heightOf({step, lines, label}, rows, width, stretch = 1) {
  const drawn = rows.flat(), most = label ? Math.max(1, ...drawn.map(row => linesOf(row[label], width).length)) : 1;
  return (stretch * step + about.labels.line * (most - 1)) * Math.max(1, new Set(drawn.map(row => row[lines])).size);
}

/** The rows of each data set of a chart of this width. */
function rowsFor({sources, label}, width) {
  const rows = sources.map(rowsOf);
  if (label) for (const row of rows.flat()) row.words = linesOf(row[label], width);
  return rows;
}

/** Draw after all that was asked for before: a chart gets its rows when its turn comes, and no choice is lost. */
function inTurn(act) {
  const turn = updating.then(act);
  updating = turn.catch(() => {});
  return turn;
}

/** One chart that cannot be drawn says so, and leaves the others as they are. */
async function attempt(name, act) {
  try {
    await act(name);
  } catch (error) {
    console.error(name, error);
    const words = hostOf(name).parentElement.querySelector('.nothing');
    words.hidden = false;
    words.textContent = 'This chart could not be drawn.';
  }
}

async function draw(name) {
  const chart = about.charts[name], spec = chart.spec, host = hostOf(name);
  const rows = rowsFor(chart, host.clientWidth);
  spec.datasets = Object.fromEntries(chart.sources.map((source, at) => [source.name, rows[at]]));
  if (chart.step) spec.height = heightOf(chart, rows, host.clientWidth);
  spec.params.find(parameter => parameter.name === 'dark').value = isDark();
  const many = rows.some(one => one.length > CANVAS_FROM);
  // Without eval, which the page's policy forbids.
  // Only errors are told: that nothing is left to draw is none.
  const {view} = await vegaEmbed(host, spec, {
    ast: true, renderer: many ? 'canvas' : 'svg', actions: false, tooltip: {theme: 'custom'}, logLevel: 1,
  });
  delete spec.datasets;
  keepInReach(name, view);
  // Beside its axis there may be less room for a legend than Vega first took: laid out once more, none is cut off above.
  await view.resize().runAsync();
  host.querySelector('svg,canvas').setAttribute('aria-hidden', 'true');
  host.dataset.rows = rows[rows.length - 1].length;
  views[name] = view;
  for (const button of host.parentElement.querySelectorAll('.tools button')) button.disabled = false;
  host.addEventListener('keydown', event => zoomByKey(event, name));
  tellEmpty(name, rows);
  tellSummary(name);
}

/** Give a chart the rows that follow from the choice. */
async function redraw(name) {
  const view = views[name], chart = about.charts[name], width = hostOf(name).clientWidth;
  const rows = rowsFor(chart, width);
  chart.sources.forEach((source, at) => view.data(source.name, rows[at]));
  if (chart.step) view.height(heightOf(chart, rows, width));
  hostOf(name).dataset.rows = rows[rows.length - 1].length;
  tellEmpty(name, rows);
  tellSummary(name);
  await view.runAsync();
  const details = document.querySelector(`details[data-of="${name}"]`);
  if (details.open) listFigures(details);
}

function tellEmpty(name, rows) {
  const words = hostOf(name).parentElement.querySelector('.nothing');
  words.hidden = rows.some(one => one.length);
  words.textContent = whyEmpty(about.charts[name].sources);
}

function whyEmpty(sources) {
  const n = chosen.picked.size;
  if (sources.some(source => source.scope === 'window')) {
    if (now.drawn.length) return 'Not measured in any of these configurations.';
    if (n && now.kept.length) return `${n === 1 ? 'The ticked configuration is not' : `None of the ${n} ticked configurations is`} left with these filters.`;
  }
  return 'Nothing is left to draw with these filters.';
}

/** The sentence of what is chosen, where a chart has several. */
function tellSummary(name) {
  const {by, summaries} = about.charts[name];
  // Where none is left, of what is drawn of the whole report: "In the whole report:" stands before it.
  if (by) document.querySelector(`#s-${name} > bdi`).textContent = summaries[drawnOf(by)] ?? (by === 'work' ? summaries[chosen.work] : '');
}

function repaint() {
  return inTurn(() => Promise.all(Object.values(views).map(view => view.signal('dark', isDark()).runAsync())));
}

/** White, and so wide and low that letters can be read in a column of A4 and a page has two charts of all lines below each other. */
function fitToPaper() {
  for (const [name, view] of Object.entries(views)) {
    fitTo(PRINTED_WIDTH, name, view.signal('dark', false), PRINTED_STEP);
  }
}

function fitToScreen() {
  for (const [name, view] of Object.entries(views)) fitTo(hostOf(name).clientWidth, name, view);
}

function fitTo(width, name, view, stretch) {
  const chart = about.charts[name];
  view.width(width);
  if (chart.step) {
    const rows = rowsFor(chart, width);
    if (chart.label) chart.sources.forEach((source, at) => view.data(source.name, rows[at]));
    view.height(heightOf(chart, rows, width, stretch));
  }
  view.run();
  view.resize().run();
}

// A chart widens by itself, but does not know how many lines its labels take then.
let resizing = 0;
addEventListener('resize', () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => inTurn(() => { if (!matchMedia('print').matches) fitToScreen(); }), 100);
});

/** No zoom so far out or in that neither marks nor labels are left: it stays as it was. */
function keepInReach(name, view) {
  const {zoomed} = about.charts[name], known = view.getState().signals;
  for (const [axis, field] of Object.entries(zoomed)) {
    const signal = `zoom_${field}`;
    if (!(signal in known)) continue;
    let last = null;
    const span = domain => view.scale(axis).type === 'log' ? Math.log(domain[1] / domain[0]) : domain[1] - domain[0];
    const whole = span(view.scale(axis).domain());
    view.addSignalListener(signal, (_, domain) => {
      const share = domain && Math.abs(span(domain.map(Number)) / whole);
      if (!domain || share > FARTHEST_IN && share < FARTHEST_OUT) last = domain;
      // Not waited for: the run that waits for this would wait for itself.
      else view.runAfter(() => { view.signal(signal, last).runAsync(); });
    });
  }
}

/** Move or stretch what an axis shows; the same signals that the mouse sets. */
function zoom(name, stretch, shift) {
  const view = views[name], zoomed = about.charts[name].zoomed, signals = view.getState().signals;
  for (const axis of Object.keys(zoomed)) {
    const signal = `zoom_${zoomed[axis]}`;
    if (!(signal in signals)) continue;
    if (stretch === null) { view.signal(signal, null); continue; }
    const scale = view.scale(axis), [from, to] = scale.range();
    const middle = (from + to) / 2 + (shift[axis] || 0) * (to - from), half = (to - from) / 2 * stretch;
    view.signal(signal, [scale.invert(middle - half), scale.invert(middle + half)].map(Number));
  }
  return view.runAsync();
}

const STRETCHES = {'+': 0.8, '=': 0.8, '-': 1.25};
const SHIFTS = {ArrowLeft: {x: -0.1}, ArrowRight: {x: 0.1}, ArrowUp: {y: 0.1}, ArrowDown: {y: -0.1}};

function zoomByKey(event, name) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const shift = SHIFTS[event.key];
  // A chart that does not move up and down leaves these keys to the page.
  if (shift && !Object.keys(shift).some(axis => axis in about.charts[name].zoomed)) return;
  if (event.key === '0') zoom(name, null);
  else if (event.key in STRETCHES) zoom(name, STRETCHES[event.key], {});
  else if (shift) zoom(name, 1, shift);
  else return;
  event.preventDefault();
}

async function save(name, kind) {
  const link = document.createElement('a');
  link.href = await views[name].toImageURL(kind, kind === 'png' ? 3 : 1);
  link.download = `${name}.${kind}`;
  link.click();
}

/** The rows of a chart as a table, and of single cycles as a second one. */
function listFigures(details) {
  const chart = about.charts[details.dataset.of], found = [tableOf(chart, chart.columns, 'rows')];
  if (Object.keys(chart.cycles).length) found.push(tableOf(chart, chart.cycles, 'cycles'));
  details.querySelector('.scroll').replaceChildren(...found);
}

function tableOf({sources, lines}, columns, word) {
  const rows = rowsOf(sources.find(source => Object.keys(columns).every(field => source.fields.includes(field))));
  if (lines !== 'name') rows.sort((a, b) => (a[lines] ?? 0) - (b[lines] ?? 0));
  const table = document.createElement('table');
  const caption = table.createCaption();
  caption.textContent = rows.length > TABLE_ROWS ? `The first ${TABLE_ROWS} of ${rows.length.toLocaleString('en')} ${word}` : `${rows.length} ${word}`;
  const head = table.createTHead().insertRow();
  for (const title of Object.values(columns)) {
    const cell = document.createElement('th');
    cell.scope = 'col';
    cell.textContent = title;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const row of rows.slice(0, TABLE_ROWS)) {
    const line = body.insertRow();
    for (const field of Object.keys(columns)) line.insertCell().append(named(shownValue(row[field], field)));
  }
  return table;
}

function shownValue(value, field) {
  if (value === null || value === undefined) return '-';
  if (field.endsWith('_front') || field === 'invalid') return value ? 'yes' : 'no';
  return typeof value === 'number' && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value);
}

/** Text that others wrote keeps its direction to itself. */
function named(text, tag = 'bdi') {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}
