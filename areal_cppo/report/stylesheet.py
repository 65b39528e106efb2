"""The report's inline style and script. Nothing is fetched from anywhere."""

# Per theme: page, ink, and the colour of full entropy gain (blended by the gain).
# Ink on any blend keeps a contrast of at least 4.5 (tested).
THEMES = {
    "light": {"page": (255, 255, 255), "ink": (31, 35, 40), "heat": (240, 136, 20)},
    "dark": {"page": (22, 27, 34), "ink": (240, 243, 246), "heat": (158, 82, 0)},
}


def _theme(name: str) -> str:
    return ";".join(
        f"--{key}:{' '.join(map(str, rgb))}" for key, rgb in THEMES[name].items()
    )


CSS = (
    f":root{{color-scheme:light dark;{_theme('light')};--back:246 248 250;"
    "--muted:87 96 106;--rule:216 222 228;--accent:0 94 148;--warn:255 248 225;"
    "--alarm:163 64 0}"
    f"@media (prefers-color-scheme:dark){{:root{{{_theme('dark')};--back:13 17 23;"
    "--muted:163 173 186;--rule:48 54 61;--accent:106 182 232;--warn:50 42 16;"
    "--alarm:240 150 90}}"
    """
*{box-sizing:border-box}
body{margin:0;overflow-x:clip;background:rgb(var(--back));color:rgb(var(--ink));
 font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main,footer{max-width:1160px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:27px;line-height:1.25;margin:2px 0 4px;letter-spacing:-.01em}
h2{font-size:20px;margin:44px 0 12px}
h3{font-size:15.5px;margin:0 0 8px}
h4{font-size:13.5px;margin:0;font-weight:600}
p{margin:0 0 8px}
code,pre,.tokens{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.muted,figcaption{color:rgb(var(--muted))}
.eyebrow{margin:0;font-size:13px;font-weight:600;color:rgb(var(--accent))}
.card,.notes{background:rgb(var(--page));border:1px solid rgb(var(--rule));
 border-radius:8px;padding:18px 20px;margin:0}
.notes{background:rgb(var(--warn));margin-top:16px;padding:12px 20px}
.warnings{border:2px solid rgb(var(--alarm))}
.warnings h2{color:rgb(var(--alarm))}
.notes h2{font-size:15px;margin:0 0 4px}
.notes ul{margin:0;padding-left:20px}
.headline{display:grid;grid-template-columns:minmax(0,1.25fr) minmax(0,1fr);gap:16px;
 margin-top:20px}
.big{font-size:34px;line-height:1.15;font-weight:650;margin:2px 0 6px;
 font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.label{font-size:13px;font-weight:600;color:rgb(var(--muted));margin:0}
.headline.bare{grid-template-columns:minmax(0,1fr)}
.bare .facts{grid-template-columns:repeat(auto-fit,minmax(200px,1fr))}
.facts{display:grid;grid-template-columns:1fr 1fr;gap:16px}
.facts .big{font-size:24px;margin:2px 0}
.facts .muted{font-size:13px;line-height:1.4;margin:0}
.whiskers{display:block;width:100%;height:auto;margin-top:10px}
.whiskers text{font-size:12px;fill:rgb(var(--muted))}
.whiskers .who{fill:rgb(var(--ink))}
.plots{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:16px}
.wide{grid-column:1/-1}
.card img.plot{display:block;width:100%;height:auto}
figcaption{font-size:13.5px;margin-top:8px}
.sample{margin-bottom:16px}
.answer{display:grid;grid-template-columns:330px minmax(0,1fr);gap:24px;
 padding-top:14px;margin-top:14px;border-top:1px solid rgb(var(--rule))}
.views{display:flex;gap:9px;margin:0}
.views figure{margin:0;width:104px}
.views img,.nothing{display:block;width:104px;height:104px;object-fit:contain;
 image-rendering:pixelated;border:1px solid rgb(var(--rule));border-radius:4px}
.nothing{display:grid;place-items:center;color:rgb(var(--muted));font-size:12px}
.views figcaption{font-size:12px;line-height:1.35;margin-top:4px}
.views b{color:rgb(var(--ink));font-weight:600}
.verdict{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 14px;
 margin-bottom:8px;font-size:13.5px}
.tag{border:1px solid;border-radius:99px;padding:0 9px;font-size:12.5px;
 font-weight:600}
.tokens{display:flex;flex-wrap:wrap;gap:6px 2px;margin:0 0 8px;padding:0;
 list-style:none;font-size:16px;line-height:1.45}
.token{position:relative;min-width:13px;text-align:center;border-radius:3px;cursor:help}
.token>.piece{display:block;padding:0 2px;border-radius:3px;white-space:pre;
 background:rgb(var(--heat)/calc(var(--gain)*100%))}
.token>small{display:block;font-size:10px;line-height:1.3;color:rgb(var(--muted));
 min-height:13px}
.token.chosen>.piece{font-weight:700;text-decoration:underline 2.5px;
 text-underline-offset:3px}
.token.read>small{color:rgb(var(--ink));font-weight:700}
.token:focus-visible,a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{
 outline:2px solid rgb(var(--accent));outline-offset:1px}
.tip{display:none;position:absolute;z-index:2;left:50%;bottom:calc(100% + 5px);
 transform:translateX(calc(-50% + var(--shift,0px)));width:max-content;max-width:250px;
 padding:7px 10px;border-radius:6px;background:rgb(var(--ink));color:rgb(var(--page));
 text-align:left;
 font:12.5px/1.45 system-ui,sans-serif;white-space:pre-line;pointer-events:none}
.token:hover .tip,.token:focus .tip{display:block}
.break{width:100%;height:0}
.legend{display:flex;flex-wrap:wrap;gap:8px 28px;align-items:center;margin-bottom:16px;
 font-size:13.5px}
.legend p{margin:0}
.ramp{display:inline-block;width:130px;height:14px;margin:0 7px;border-radius:3px;
 vertical-align:-2px;border:1px solid rgb(var(--rule));
 background:linear-gradient(90deg,rgb(var(--heat)/0),rgb(var(--heat)))}
.legend u{font-weight:700;text-decoration-thickness:2.5px;text-underline-offset:3px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:6px 14px 6px 0;vertical-align:top;
 border-bottom:1px solid rgb(var(--rule))}
tr:last-child>*{border-bottom:0}
thead th{font-size:13px;color:rgb(var(--muted))}
tbody th{font-weight:600;white-space:nowrap}
td.value{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums;
 padding-right:26px}
th.value{text-align:right;padding-right:26px}
td code{font-size:12.5px;color:rgb(var(--muted))}
details summary{cursor:pointer;font-weight:600}
pre{overflow-x:auto;font-size:13px;line-height:1.5;margin:10px 0 0}
footer{padding-top:28px;padding-bottom:40px;font-size:13px;color:rgb(var(--muted))}
@media (max-width:820px){.headline,.plots,.answer{grid-template-columns:minmax(0,1fr)}}
@media print{body{background:none}.card{break-inside:avoid}}
"""
)

# Tab enters a response once, arrow keys move in it, Escape hides the tooltip, which
# is shifted where it would leave the page. Without the script every token is a tab
# stop of its own.
SCRIPT = """
for (const line of document.querySelectorAll('.tokens')) {
  const all = [...line.querySelectorAll('.token')];
  all.forEach((token, i) => token.tabIndex = i ? -1 : 0);
  line.addEventListener('keydown', event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    const at = all.indexOf(document.activeElement);
    if (event.key === 'Escape') document.activeElement.blur();
    if (!step || !all[at + step]) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[at + step].tabIndex = 0;
    all[at + step].focus();
  });
  const keepOnPage = event => {
    const tip = event.target.closest('.token')?.querySelector('.tip');
    if (!tip) return;
    tip.style.setProperty('--shift', '0px');
    const box = tip.getBoundingClientRect();
    const right = document.documentElement.clientWidth - 8;
    const shift = Math.min(0, right - box.right) + Math.max(0, 8 - box.left);
    tip.style.setProperty('--shift', shift + 'px');
  };
  line.addEventListener('mouseover', keepOnPage);
  line.addEventListener('focusin', keepOnPage);
}
"""
