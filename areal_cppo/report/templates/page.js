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
