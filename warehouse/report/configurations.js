// The table of configurations: sorted by a column, a page at a time, rows ticked to be drawn.

const PAGE_ROWS = 25;
const PRINTED_ROWS = 200;
const shownTable = {sort: 'energy_mean', down: false, page: 0};

/** Of a campaign, as its row shows it and the address holds it. */
const shortId = row => row.id.slice(0, 8);

/** Whether a column begins with its greatest: where more is better, the best comes first, as in the charts. */
const greatestFirst = sort => about.metrics.some(({key, less}) => sort === `${key}_mean` && !less);

function sortedRows() {
  const {sort, down} = shownTable;
  const order = typeof now.kept.find(row => row[sort] !== null)?.[sort] === 'string'
    ? (a, b) => a.localeCompare(b, 'en', {numeric: true}) : (a, b) => a - b;
  return [...now.kept].sort((a, b) => {
    if (a[sort] === null || b[sort] === null) return (a[sort] === null) - (b[sort] === null) || a.c - b.c;
    return (down ? -1 : 1) * order(a[sort], b[sort]) || a.c - b.c;
  });
}

function listConfigurations(atOnce = PAGE_ROWS) {
  const rows = sortedRows(), pages = Math.max(1, Math.ceil(rows.length / atOnce));
  shownTable.page = Math.max(0, Math.min(shownTable.page, pages - 1));
  const from = shownTable.page * atOnce, shown = rows.slice(from, from + atOnce);
  document.querySelector('#rows tbody').replaceChildren(...(shown.length ? shown.map(lineOf) : [noLine()]));
  for (const head of document.querySelectorAll('#rows th[data-sort]')) {
    const isSorted = head.dataset.sort === shownTable.sort;
    if (isSorted) head.setAttribute('aria-sort', shownTable.down ? 'descending' : 'ascending');
    else head.removeAttribute('aria-sort');
  }
  document.getElementById('page-at').textContent = rows.length
    ? `${(from + 1).toLocaleString('en')} to ${(from + shown.length).toLocaleString('en')} of ${rows.length.toLocaleString('en')}` : 'none';
  document.getElementById('page-back').disabled = shownTable.page === 0;
  document.getElementById('page-on').disabled = shownTable.page >= pages - 1;
}

function noLine() {
  const line = document.createElement('tr'), cell = line.insertCell();
  cell.colSpan = document.querySelectorAll('#rows thead th').length;
  cell.className = 'soft';
  cell.textContent = 'No configuration is left with these filters.';
  return line;
}

function lineOf(row) {
  const line = document.createElement('tr');
  line.dataset.campaign = row.id;
  const box = document.createElement('input');
  box.type = 'checkbox';
  box.checked = chosen.picked.has(row.c);
  box.dataset.pick = row.c;
  box.setAttribute('aria-label', `Draw ${row.label}`);
  line.insertCell().append(box);

  const head = document.createElement('th');
  head.scope = 'row';
  head.append(named(row.label));
  const parts = [row.study, row.experiment].filter(text => text && !row.label.includes(text)).concat([row.hash && `config ${row.hash}`, `campaign ${shortId(row)}`]).filter(Boolean);
  const below = named(parts.join(' · '));
  below.className = 'below';
  head.append(below);
  if (row.simulated) head.append(badge('simulated'));
  line.append(head);

  const cycles = numberCell(line, String(row.n_cycles));
  const left = [['n_invalid', 'invalid'], ['n_failed', 'failed'], ['n_superseded', 'replaced']]
    .filter(([name]) => row[name]).map(([name, word]) => `${row[name]} ${word}`);
  if (left.length) cycles.append(below_(left.join(', ')));
  for (const {key} of about.metrics) {
    const cell = numberCell(line, row[`${key}_text`] ?? '-');
    cell.dataset.metric = key;
    if (row[`${key}_text`] !== null) cell.append(below_(row[`${key}_interval`] ?? 'no interval'));
    if (key === 'energy' && row.energy_bound !== null) cell.append(below_(`meter ${row.energy_bound}`));
  }
  numberCell(line, String(row.n_warnings));
  return line;
}

function numberCell(line, text) {
  const cell = line.insertCell();
  cell.className = 'num';
  cell.append(named(text, 'span'));
  return cell;
}

function below_(text) {
  const element = named(text, 'span');
  element.className = 'below interval';
  return element;
}

function badge(text) {
  const element = named(text, 'span');
  element.className = 'badge';
  return element;
}

function listenToTable() {
  document.querySelector('#rows thead').addEventListener('click', event => {
    const head = event.target.closest('button')?.closest('th');
    if (!head) return;
    const same = shownTable.sort === head.dataset.sort;
    Object.assign(shownTable, {sort: head.dataset.sort, down: same ? !shownTable.down : greatestFirst(head.dataset.sort), page: 0});
    listConfigurations();
  });
  document.querySelector('#rows tbody').addEventListener('change', event => {
    const place = Number(event.target.dataset.pick);
    if (event.target.checked) chosen.picked.add(place); else chosen.picked.delete(place);
    chosen.from = 0;
    update();
    // Its row is a new one.
    document.querySelector(`#rows [data-pick="${place}"]`)?.focus({preventScroll: true});
  });
  document.getElementById('page-back').addEventListener('click', () => { shownTable.page -= 1; listConfigurations(); });
  document.getElementById('page-on').addEventListener('click', () => { shownTable.page += 1; listConfigurations(); });
  addEventListener('beforeprint', () => listConfigurations(PRINTED_ROWS));
  addEventListener('afterprint', () => listConfigurations());
}
