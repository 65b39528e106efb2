// A response's tokens are one stop of the Tab key: arrow keys move within it. The
// readout shows the numbers of the token last pointed at or reached, which it takes from
// the table of all numbers. Without this script every token is a stop of its own and the
// table is all there is.
document.documentElement.classList.add('script');

for (const response of document.querySelectorAll('.response')) {
  const tokens = [...response.querySelectorAll('.token')];
  const rows = [...response.querySelectorAll('.numbers tbody tr')];
  const readout = response.querySelector('.readout');
  if (!tokens.length || !readout) continue;
  const chosen = tokens.filter(token => token.classList.contains('chosen'));

  const show = token => {
    const at = tokens.indexOf(token);
    for (const other of tokens) {
      other.tabIndex = other === token ? 0 : -1;
      other.removeAttribute('aria-current');
    }
    token.setAttribute('aria-current', 'true');
    readout.style.setProperty('--gain', token.style.getPropertyValue('--gain'));
    for (const slot of readout.querySelectorAll('[data-slot]')) {
      const cell = rows[at].querySelector(`[data-of="${slot.dataset.slot}"]`);
      slot.textContent = cell?.textContent ?? (slot.tagName === 'TD' ? '\u2013' : '');
      if (slot.classList.contains('tag')) slot.hidden = !slot.textContent;
    }
  };

  // The neighbour that a key leads to, if any.
  const neighbour = (key, at) => ({
    ArrowRight: () => tokens[at + 1],
    ArrowLeft: () => tokens[at - 1],
    ArrowDown: () => chosen.find(token => tokens.indexOf(token) > at),
    ArrowUp: () => chosen.findLast(token => tokens.indexOf(token) < at),
    Home: () => tokens[0],
    End: () => tokens[tokens.length - 1],
  })[key]?.();

  response.querySelector('.tokens').addEventListener('keydown', event => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const at = tokens.indexOf(event.target.closest('.token'));
    const next = neighbour(event.key, at);
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  for (const kind of ['pointerover', 'focusin', 'click']) {
    response.querySelector('.tokens').addEventListener(kind, event => {
      const token = event.target.closest('.token');
      if (token) show(token);
    });
  }
  const gain = token => Number(token.style.getPropertyValue('--gain'));
  show(tokens.reduce((best, token) => gain(token) > gain(best) ? token : best));
}

// A chart tells the values at the place last pointed at or reached by arrow keys, first
// at its end, in a line below it. Boxes and limits say where in each of
// its pictures the axis lies; the narrow picture's come first.
for (const chart of document.querySelectorAll('.chart[data-readings]')) {
  const {boxes, limits, places, heads, rows} = JSON.parse(chart.dataset.readings);
  const make = (name, parent, kind = '') => {
    const node = parent.appendChild(document.createElement(name));
    node.className = kind;
    return node;
  };
  const reach = make('div', chart, 'reach'), line = make('i', reach);
  const read = make('p', chart.parentNode, 'read');
  chart.after(read);
  const narrow = matchMedia(chart.querySelector('source').media);
  const last = places.length - 1;
  let at = last;

  const lay = () => {
    const box = boxes[narrow.matches ? 0 : 1];
    ['left', 'width', 'top', 'height'].forEach((side, i) => {
      reach.style[side] = `${100 * box[i]}%`;
    });
  };
  const show = place => {
    at = Math.max(0, Math.min(last, place));
    const known = rows.filter(row => row.values[at]);
    read.replaceChildren();
    make('strong', read).textContent = heads[at];
    for (const row of known) {
      const value = make('span', read);
      make('i', value).style.background = row.color;
      value.append(`${row.label} ${row.values[at]}`);
    }
    const share = (places[at] - limits[0]) / (limits[1] - limits[0]);
    line.style.left = `${100 * share}%`;
    line.hidden = false;
    const words = known.map(row => `${row.label} ${row.values[at]}`);
    const told = {valuenow: at + 1, valuetext: [heads[at], ...words].join(', ')};
    for (const [key, value] of Object.entries(told)) reach.setAttribute(`aria-${key}`, value);
  };
  const point = event => {
    const box = reach.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    const x = limits[0] + share * (limits[1] - limits[0]);
    const far = place => Math.abs(place - x);
    show(places.reduce((best, place, i) => far(place) < far(places[best]) ? i : best, 0));
  };

  const name = `Values of the chart ${chart.dataset.name}`;
  const told = {role: 'slider', tabindex: 0, 'aria-label': name, 'aria-valuemin': 1,
    'aria-valuemax': last + 1};
  for (const [key, value] of Object.entries(told)) reach.setAttribute(key, value);
  reach.addEventListener('keydown', event => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const next = {ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1,
      PageUp: at + 10, PageDown: at - 10, Home: 0, End: last}[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(next);
  });
  reach.addEventListener('pointermove', point);
  reach.addEventListener('pointerdown', point);
  reach.addEventListener('focus', () => show(at));
  show(last);
  line.hidden = true;
  narrow.addEventListener('change', lay);
  lay();
}
