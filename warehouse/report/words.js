// What the page's reader chose, in words: beside the controls, and on paper, where there are none.

const MOST_NAMED = 6;
const MOST_TICKS_IN_ADDRESS = 40;
const counted = n => n.toLocaleString('en');
const some = (n, unit) => `${counted(n)} ${unit}${n === 1 ? '' : 's'}`;

function tellChoice() {
  const shown = `${counted(now.kept.length)} of ${some(tables.campaigns.length, 'configuration')}, ${counted(now.cycles)} of ${some(tables.cycles.length, 'cycle')}`;
  byId('shown').textContent = shown;
  const words = chosenInWords();
  byId('choice').classList.toggle('print-only', !words.length);
  byId('choice').lastElementChild.textContent = [shown, ...words].join('; ');
  for (const element of document.querySelectorAll('.whole')) {
    element.hidden = now.isWhole && !(chosen.picked.size && 'ticked' in element.dataset);
  }
  for (const element of document.querySelectorAll('[data-pair]')) element.hidden = Number(element.dataset.pair) !== chosen.pair;
  tellWindow();
  tellTicks();
  for (const name of Object.keys(now.left)) tellWhatIsLeft(name);
  for (const element of document.querySelectorAll('[data-said]')) element.textContent = chosenOf(byId(element.dataset.said));
}

/** Filters and ticks. */
function chosenInWords() {
  const words = FILTERS.filter(name => chosen.filters[name].size).map(name => `${about.filters[name]} ${listed([...chosen.filters[name]])}`);
  if (chosen.find) words.push(`found by "${chosen.find}"`);
  if (chosen.picked.size) words.push(`by configuration only what is ticked: ${listed([...chosen.picked].map(place => tables.campaigns[place].label))}`);
  return words;
}

function listed(texts) {
  const more = texts.length - MOST_NAMED;
  return texts.slice(0, MOST_NAMED).join(', ') + (more > 0 ? ` and ${counted(more)} more` : '');
}

function tellWindow() {
  const last = chosen.from + now.drawn.length;
  byId('window').textContent = now.ranked.length
    ? `${counted(chosen.from + 1)} to ${counted(last)} of ${counted(now.ranked.length)}${chosen.picked.size ? ' ticked' : ''}` : 'none';
  byId('earlier').disabled = chosen.from === 0;
  byId('later').disabled = last >= now.ranked.length;
}

function tellTicks() {
  const n = chosen.picked.size, away = n - now.ranked.length;
  const words = [`${counted(n)} ticked`];
  if (n && away) words.push(`${away === n ? 'none of them' : `${counted(away)} of them not`} left with these filters`);
  if (n > MOST_TICKS_IN_ADDRESS) words.push(`the page's address keeps the first ${MOST_TICKS_IN_ADDRESS}`);
  for (const element of document.querySelectorAll('.n-ticked')) element.textContent = n ? words.join(', ') : '';
  for (const button of document.querySelectorAll('button[data-clear]')) button.hidden = !n;
}

/** Of a list of runs or of kinds of work, those that the filters leave can be chosen; the reader's own choice comes back. */
function tellWhatIsLeft(name) {
  const list = byId(name);
  if (!list) return;
  for (const option of list.options) option.disabled = !now.left[name].has(Number(option.value));
  list.value = drawnOf(name);
}

/** What a list shows, for paper. */
function chosenOf(list) {
  const text = list.selectedOptions[0]?.textContent ?? 'none is left';
  return `${list.labels[0].textContent}: ${text}${list.id === 'rank-by' ? `; ${byId('window').textContent}` : ''}`;
}
