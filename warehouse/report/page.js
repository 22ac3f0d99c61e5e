// What the page's reader does, and the start.

const byId = id => document.getElementById(id);
let updates = 0;

/** Everything that follows from the choice, on the page; charts one after the other, those there are by then. */
function update() {
  follow();
  tellChoice();
  listConfigurations();
  keepInAddress();
  const mine = ++updates;
  return inTurn(async () => {
    for (const name of Object.keys(views)) {
      // A newer choice is in turn, and draws all of them anew.
      if (mine !== updates) return;
      await attempt(name, redraw);
    }
  });
}

/** The choice in the page's address, so that it can be sent to others and survives a reload. */
function keepInAddress() {
  const words = new URLSearchParams();
  for (const name of FILTERS) for (const value of chosen.filters[name]) words.append(name, value);
  if (chosen.find.trim()) words.set('find', chosen.find);
  if (chosen.rankBy !== usable[0]?.key) words.set('order', chosen.rankBy);
  if (chosen.work) words.set('work', chosen.work);
  if (chosen.trace) words.set('run', chosen.trace);
  if (chosen.pair) words.set('pair', chosen.pair);
  if (chosen.ratio) words.set('figure', chosen.ratio);
  for (const place of [...chosen.picked].slice(0, MOST_TICKS_IN_ADDRESS)) words.append('tick', shortId(tables.campaigns[place]));
  const hash = words.toString();
  if (hash || location.hash.includes('=')) history.replaceState(null, '', hash ? `#${hash}` : location.href.split('#')[0]);
}

function readAddress() {
  if (!location.hash.includes('=')) return;
  const words = new URLSearchParams(location.hash.slice(1));
  for (const name of FILTERS) chosen.filters[name] = new Set(words.getAll(name));
  chosen.find = words.get('find') ?? '';
  if (usable.some(metric => metric.key === words.get('order'))) chosen.rankBy = words.get('order');
  chosen.work = choiceOf('work', words.get('work'));
  chosen.trace = choiceOf('trace', words.get('run'));
  chosen.pair = choiceOf('pair', words.get('pair'));
  chosen.ratio = choiceOf('ratio', words.get('figure'));
  const ticks = new Set(words.getAll('tick').slice(0, MOST_TICKS_IN_ADDRESS));
  chosen.picked = new Set(tables.campaigns.filter(row => ticks.has(shortId(row))).map(row => row.c));
}

/** The number of an option of a list; its first if there is no such option. */
function choiceOf(id, text) {
  const list = byId(id);
  return list && [...list.options].some(option => option.value === text) ? Number(text) : 0;
}

function showChoice() {
  for (const box of document.querySelectorAll('#filters input[type=checkbox]')) {
    box.checked = chosen.filters[box.name].has(box.value);
  }
  byId('find').value = chosen.find;
  byId('rank-by').value = chosen.rankBy;
  for (const name of ['pair', 'ratio']) if (byId(name)) byId(name).value = chosen[name];
}

function listen() {
  const form = byId('filters');
  form.addEventListener('submit', event => event.preventDefault());
  form.addEventListener('change', event => {
    const {name, value, checked} = event.target;
    if (!(name in chosen.filters)) return;
    if (checked) chosen.filters[name].add(value); else chosen.filters[name].delete(value);
    chosen.from = shownTable.page = 0;
    update();
  });
  let waiting;
  byId('find').addEventListener('input', event => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      chosen.find = event.target.value;
      chosen.from = shownTable.page = 0;
      update();
    }, 150);
  });
  form.addEventListener('reset', () => {
    for (const name of FILTERS) chosen.filters[name] = new Set();
    Object.assign(chosen, {find: '', from: 0, picked: new Set()});
    shownTable.page = 0;
    update();
  });
  const choose = (id, name, made) => byId(id)?.addEventListener('change', event => {
    Object.assign(chosen, {[name]: made(event.target.value), from: 0});
    update();
  });
  choose('rank-by', 'rankBy', String);
  for (const name of ['work', 'trace', 'pair', 'ratio']) choose(name, name, Number);
  byId('earlier').addEventListener('click', () => { chosen.from -= about.window; update(); });
  byId('later').addEventListener('click', () => { chosen.from += about.window; update(); });
  for (const button of document.querySelectorAll('button[data-clear]')) {
    button.addEventListener('click', () => {
      Object.assign(chosen, {picked: new Set(), from: 0});
      // The button goes away; the keyboard goes on beside it.
      byId(button.dataset.clear).focus();
      update();
    });
  }
  for (const button of document.querySelectorAll('button[data-save]')) {
    button.addEventListener('click', () => save(button.dataset.of, button.dataset.save));
  }
  for (const button of document.querySelectorAll('button[data-zoom]')) {
    const stretch = {in: 0.8, out: 1.25, reset: null}[button.dataset.zoom];
    button.addEventListener('click', () => zoom(button.dataset.of, stretch, {}));
  }
  for (const details of document.querySelectorAll('details[data-of]')) {
    details.addEventListener('toggle', () => { if (details.open) listFigures(details); });
  }
  listenToTable();
  addEventListener('hashchange', () => { if (location.hash.includes('=')) { readAddress(); showChoice(); update(); } });
}

/** A link to a part of the page leaves the address alone, which holds the choice. */
function listenToLinks() {
  document.addEventListener('click', event => {
    const link = event.target.closest('a[href^="#"]'), part = link && byId(link.hash.slice(1));
    if (!part || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    part.tabIndex = -1;
    part.focus({preventScroll: true});
    part.scrollIntoView();
  });
}

function listenToTheme() {
  const button = byId('theme');
  const tell = () => button.setAttribute('aria-pressed', String(isDark()));
  tell();
  button.addEventListener('click', () => {
    document.documentElement.dataset.theme = isDark() ? 'light' : 'dark';
    tell();
    repaint();
  });
  darkScheme.addEventListener('change', () => { tell(); repaint(); });
  addEventListener('beforeprint', fitToPaper);
  addEventListener('afterprint', () => { fitToScreen(); repaint(); });
}

async function start() {
  listenToLinks();
  listenToTheme();
  if (tables.campaigns.length) {
    for (const option of [...byId('rank-by').options]) option.disabled = !measured(option.value);
    shownTable.sort = `${chosen.rankBy}_mean`;
    shownTable.down = greatestFirst(shownTable.sort);
    readAddress();
    showChoice();
    follow();
    tellChoice();
    listConfigurations();
    listen();
    for (const name of Object.keys(about.charts)) {
      await inTurn(() => attempt(name, draw));
      // Let the reader scroll and click between two charts.
      await new Promise(resolve => setTimeout(resolve));
    }
  }
  document.body.dataset.ready = 'yes';
}

start();
