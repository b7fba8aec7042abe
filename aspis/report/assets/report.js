// Read-outs and buttons of the report. The page is complete without it.
const data = JSON.parse(document.getElementById('data').textContent);
const root = document.documentElement;
const tip = document.getElementById('tip');
root.classList.add('ready');

// Theme: the reader's system decides until the button is used; "#theme=dark" in the address wins.
const store = {
  get() { try { return localStorage.getItem('aspis-theme'); } catch { return null; } },
  set(v) { try { localStorage.setItem('aspis-theme', v); } catch { /* a page from a file may not store */ } },
};
const asked = /theme=(light|dark)/.exec(location.hash)?.[1] ?? store.get();
if (asked === 'light' || asked === 'dark') root.dataset.theme = asked;
document.getElementById('theme').addEventListener('click', () => {
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  store.set(root.dataset.theme);
});

// Tooltip: rows of [name, value], placed beside the pointer and inside the window.
function showTip(x, y, rows) {
  tip.replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement('div');
    const left = document.createElement('span');
    left.textContent = name;
    row.append(left);
    if (value !== undefined) {
      const right = document.createElement('b');
      right.textContent = value;
      row.append(right);
    }
    return row;
  }));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth - 8 ? x - 16 - box.width : x + 16;
  const top = Math.min(Math.max(8, y - box.height / 2), innerHeight - box.height - 8);
  tip.style.transform = `translate(${Math.max(8, left)}px, ${top}px)`;
}
function hideTip() { tip.hidden = true; }

// Numbers.
const finite = (v) => v !== null && Number.isFinite(v);
function number(v, digits = 4) {
  if (v === 0) return '0';
  const a = Math.abs(v);
  if (a < 1e-3 || a >= 1e6) return Number(v.toPrecision(3)).toExponential().replace('e+', 'e');
  return a >= 10 ** (digits - 1) ? v.toFixed(0) : String(Number(v.toPrecision(digits)));
}
function valueText(v, format) {
  if (!finite(v)) return '–';
  if (format === 'pct') return `${(v * 100).toFixed(2)} %`;
  if (format === 'count') return Math.round(v).toLocaleString('en');
  return number(v);
}
function tickText(v, step, format) {
  const places = (s) => Math.max(0, -Math.floor(Math.log10(s) + 1e-9));
  if (format === 'pct') return `${(v * 100).toFixed(places(step * 100))}\u2009%`;
  if (v === 0) return '0';
  if (Math.abs(v) >= 10000) return `${Number((v / 1000).toPrecision(3))} k`;
  if (step < 1e-4) return v.toExponential(1);
  return v.toFixed(places(step));
}
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const lead = raw / power;
  const step = power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
  const list = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && list.length < 20; ++i) list.push(i * step);
  return { list, step };
}
function logTicks(low, high) {
  const list = [];
  const decades = Math.log10(high / low);
  const leads = decades > 3 ? [1] : decades > 1.2 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); ++p) {
    for (const lead of leads) {
      const v = lead * 10 ** p;
      if (v >= low && v <= high) list.push(v);
    }
  }
  return list;
}
function smooth(y) {
  const n = y.length;
  const reach = Math.max(1, Math.floor(n / 80));
  const sum = [0];
  const count = [0];
  y.forEach((v, i) => {
    sum.push(sum[i] + (finite(v) ? v : 0));
    count.push(count[i] + (finite(v) ? 1 : 0));
  });
  return y.map((_, i) => {
    const before = Math.min(reach, i);
    const after = Math.min(before, n - 1 - i);
    const c = count[i + after + 1] - count[i - before];
    return c > 0 ? (sum[i + after + 1] - sum[i - before]) / c : null;
  });
}

// One plot: the server's drawing is replaced by one of the window's width.
class Plot {
  constructor(card, plot) {
    this.plot = plot;
    this.canvas = card.querySelector('.canvas');
    this.label = this.canvas.querySelector('svg').getAttribute('aria-label');
    this.smoothed = plot.lines.map((l) => (l.noisy ? smooth(l.y) : l.y));
    this.on = { smooth: true, log: false };
    for (const button of card.querySelectorAll('[data-act]')) {
      button.addEventListener('click', () => {
        this.on[button.dataset.act] = !this.on[button.dataset.act];
        button.setAttribute('aria-pressed', this.on[button.dataset.act]);
        this.draw();
      });
    }
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(this.canvas);
    this.canvas.tabIndex = 0;
    this.canvas.addEventListener('pointermove', (e) => this.read(e.clientX));
    this.canvas.addEventListener('pointerdown', (e) => this.read(e.clientX));
    this.canvas.addEventListener('pointerleave', () => this.leave());
    this.canvas.addEventListener('blur', () => this.leave());
    this.canvas.addEventListener('keydown', (e) => this.key(e));
  }

  range() {
    let [low, high, first, last] = [Infinity, -Infinity, 0, -Infinity];
    const add = (v) => {
      if (!finite(v) || (this.on.log && v <= 0)) return;
      low = Math.min(low, v);
      high = Math.max(high, v);
    };
    this.plot.lines.forEach((l, i) => {
      last = Math.max(last, ...l.x);
      this.smoothed[i].forEach(add);
      if (!l.noisy) return;
      const sorted = l.y.filter(finite).sort((a, b) => a - b);
      const cut = this.on.smooth ? Math.floor(sorted.length / 100) : 0;
      add(sorted[cut]);
      add(sorted[sorted.length - 1 - cut]);
    });
    if (!(low <= high)) [low, high] = this.on.log ? [0.1, 1] : [0, 1];
    if (!(last > first)) last = first + 1;
    if (this.on.log) {
      const d = Math.max(Math.log(high / low), 0.1) * 0.06;
      return { low: low * Math.exp(-d), high: high * Math.exp(d), first, last };
    }
    const d = high > low ? (high - low) * 0.06 : Math.max(Math.abs(high) * 0.1, 1e-9);
    return {
      low: low >= 0 ? Math.max(0, low - d) : low - d,
      high: this.plot.format === 'pct' ? Math.min(1, high + d) : high + d, first, last,
    };
  }

  draw() {
    const width = Math.round(this.canvas.clientWidth);
    if (width < 40) return;
    const height = Math.round(Math.min(300, Math.max(190, width * 0.5)));
    const box = { left: 50, right: 12, top: 12, bottom: 36 };
    const r = this.range();
    const map = this.on.log ? Math.log : (v) => v;
    const [low, high] = [map(r.low), map(r.high)];
    const px = (x) => box.left + (x - r.first) / (r.last - r.first) * (width - box.left - box.right);
    const py = (y) => box.top + (high - Math.min(high, Math.max(low, map(y)))) / (high - low) * (height - box.top - box.bottom);
    this.px = px;
    this.py = py;
    const ok = (v) => finite(v) && (!this.on.log || v > 0);
    const path = (x, y) => {
      let out = '';
      let open = false;
      y.forEach((v, i) => {
        if (ok(v)) out += `${open ? 'L' : 'M'}${px(x[i]).toFixed(1)} ${py(v).toFixed(1)}`;
        open = ok(v);
      });
      return out;
    };
    const format = this.plot.format;
    const yt = this.on.log ? { list: logTicks(r.low, r.high), step: 0 } : ticks(r.low, r.high, height > 220 ? 5 : 4);
    const xt = ticks(r.first, r.last, Math.max(3, Math.min(8, width / 80)));
    let out = '';
    let above = Infinity;
    for (const v of yt.list) {
      const y = py(v).toFixed(1);
      if (above - y < 18) continue;  // no room for its text
      above = y;
      const text = this.on.log ? (format === 'num' ? number(v, 2) : valueText(v, format)) : tickText(v, yt.step, format);
      out += `<line class="g" x1="${box.left}" x2="${width - box.right}" y1="${y}" y2="${y}"/>` +
        `<text x="${box.left - 8}" y="${Number(y) + 4}" text-anchor="end">${text}</text>`;
    }
    for (const v of xt.list) {
      out += `<text x="${px(v).toFixed(1)}" y="${height - box.bottom + 18}" text-anchor="middle">${tickText(v, xt.step, 'num')}</text>`;
    }
    out += `<text class="x" x="${width - box.right}" y="${height - 2}" text-anchor="end">${this.plot.x}</text>`;
    this.plot.lines.forEach((l, i) => {
      const raw = l.noisy ? (this.on.smooth ? ' raw' : ' raw solo') : '';
      out += `<path class="l k${l.k}${raw}" d="${path(l.x, l.y)}"/>`;
      if (l.noisy && this.on.smooth) out += `<path class="l k${l.k}" d="${path(l.x, this.smoothed[i])}"/>`;
      if (!l.marks || l.x.length > 60) return;
      l.x.forEach((x, j) => {
        if (!ok(l.y[j])) return;
        const best = j === l.best;
        out += `<circle class="m k${l.k}${best ? ' best' : ''}" cx="${px(x).toFixed(1)}" cy="${py(l.y[j]).toFixed(1)}" r="${best ? 5 : 3}"/>`;
      });
    });
    const svg = this.canvas.querySelector('svg');
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.innerHTML = `${out}<g class="over"></g>`;
    this.size = { width, height, box, first: r.first, last: r.last };
  }

  read(clientX) {
    if (!this.size) return;
    const { width, box, first, last } = this.size;
    const rect = this.canvas.getBoundingClientRect();
    const share = (clientX - rect.left - box.left) / (width - box.left - box.right);
    this.readAt(first + Math.min(1, Math.max(0, share)) * (last - first));
  }

  readAt(x) {
    const { height, box } = this.size;
    // The line with the most values leads; others show the value nearest to it.
    const nearest = (l) => {
      let [a, b] = [0, l.x.length - 1];
      while (b - a > 1) {
        const m = (a + b) >> 1;
        if (l.x[m] < x) a = m; else b = m;
      }
      return Math.abs(l.x[a] - x) <= Math.abs(l.x[b] - x) ? a : b;
    };
    const lead = this.plot.lines.reduce((a, l) => (l.x.length > a.x.length ? l : a));
    this.index = nearest(lead);
    this.lead = lead;
    const at = lead.x[this.index];
    const perEpoch = data.stepsPerEpoch;
    const rows = [perEpoch > 0
      ? [`epoch ${number(at, 3)}`, `step ${Math.round(at * perEpoch).toLocaleString('en')}`]
      : [`step ${Math.round(at).toLocaleString('en')}`]];
    let over = `<line class="cross" x1="${this.px(at)}" x2="${this.px(at)}" y1="${box.top}" y2="${height - box.bottom}"/>`;
    let top = Infinity;
    this.plot.lines.forEach((l, i) => {
      const j = l === lead ? this.index : nearest(l);
      const y = this.on.smooth ? this.smoothed[i][j] : l.y[j];
      const name = l !== lead && perEpoch > 0 ? `${l.name}, epoch ${number(l.x[j], 3)}` : l.name;
      rows.push([name, valueText(y, this.plot.format)]);
      if (!finite(y) || (this.on.log && y <= 0)) return;
      top = Math.min(top, this.py(y));
      over += `<circle class="dot k${l.k}" cx="${this.px(l.x[j])}" cy="${this.py(y)}" r="4.5"/>`;
    });
    this.canvas.querySelector('.over').innerHTML = over;
    const rect = this.canvas.getBoundingClientRect();
    showTip(rect.left + this.px(at), rect.top + (finite(top) ? top : height / 2), rows);
  }

  key(e) {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -1e9, End: 1e9 }[e.key];
    if (!move || !this.size) return;
    e.preventDefault();
    const lead = this.lead ?? this.plot.lines[0];
    const next = Math.min(lead.x.length - 1, Math.max(0, (this.index ?? -1) + move));
    this.readAt(lead.x[next]);
  }

  leave() {
    hideTip();
    const over = this.canvas.querySelector('.over');
    if (over) over.innerHTML = '';
  }
}
for (const plot of data.plots) {
  const card = document.querySelector(`[data-plot="${plot.id}"]`);
  if (card) new Plot(card, plot);
}

// Cells of the confusion matrix: the title becomes a read-out at once.
for (const area of document.querySelectorAll('.tips')) {
  for (const cell of area.querySelectorAll('td[title]')) {
    cell.dataset.tip = cell.title;
    cell.removeAttribute('title');
  }
  const read = (e) => {
    const text = e.target.closest?.('[data-tip]')?.dataset.tip;
    if (text) showTip(e.clientX, e.clientY, [[text]]); else hideTip();
  };
  area.addEventListener('pointermove', read);
  area.addEventListener('pointerdown', read);
  area.addEventListener('pointerleave', hideTip);
}

// Scan orders: which patch, visited when; and a dot that walks through them.
const [rows, columns] = data.grid;
const drawings = [...document.querySelectorAll('svg[data-scan]')];
for (const svg of drawings) {
  const order = data.scans[svg.dataset.scan];
  const visit = [];
  order.forEach((cell, k) => { visit[cell] = k; });
  const read = (e) => {
    const box = svg.getBoundingClientRect();
    const scale = (columns * 20 + 8) / box.width;
    const column = Math.floor(((e.clientX - box.left) * scale - 4) / 20);
    const row = Math.floor(((e.clientY - box.top) * scale - 4) / 20);
    if (column < 0 || row < 0 || column >= columns || row >= rows) return hideTip();
    showTip(e.clientX, e.clientY, [[`row ${row + 1}, column ${column + 1}`], ['visited', `${visit[row * columns + column] + 1} of ${order.length}`]]);
  };
  svg.addEventListener('pointermove', read);
  svg.addEventListener('pointerdown', read);
  svg.addEventListener('pointerleave', hideTip);
}
const play = document.getElementById('play');
let walking = 0;
play?.addEventListener('click', () => {
  const run = ++walking;
  if (play.textContent === 'Stop') return stop();
  play.textContent = 'Stop';
  const length = rows * columns;
  const seconds = Math.min(12, Math.max(3, length / 14));
  let start;
  const frame = (now) => {
    if (run !== walking) return;
    start ??= now;
    const k = Math.floor((now - start) / 1000 / seconds * length);
    if (k >= length) return stop();
    for (const svg of drawings) {
      const cell = data.scans[svg.dataset.scan][k];
      svg.classList.add('playing');
      const head = svg.querySelector('.head');
      head.setAttribute('cx', (cell % columns + 0.5) * 20);
      head.setAttribute('cy', (Math.floor(cell / columns) + 0.5) * 20);
    }
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
});
function stop() {
  ++walking;
  play.textContent = 'Play';
  for (const svg of drawings) svg.classList.remove('playing');
}

// Copy of the command; without the clipboard (pages from a file) it is selected instead.
document.getElementById('copy')?.addEventListener('click', async (e) => {
  const pre = document.getElementById('command');
  try {
    await navigator.clipboard.writeText(pre.textContent);
    e.target.textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren(pre);
    e.target.textContent = document.execCommand('copy') ? 'Copied' : 'Selected';
  }
  setTimeout(() => { e.target.textContent = 'Copy'; }, 1600);
});

addEventListener('scroll', hideTip, { passive: true });
