// The parts that pages are made of. Whatever comes from the API becomes a text node or an attribute.

import { h } from "preact";
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import htm from "htm";

import { ApiError, get } from "./api.js";
import { ago, moment, statusTone, statusWord } from "./format.js";

export const html = htm.bind(h);

// -- icons -----------------------------------------------------------------------------------------

const PATHS = {
  now: "M2 9h3l2-6 3.5 11L13 9h3",
  runs: "M3 4.5h12M3 9h8M3 13.5h10",
  spend: "M3 15V9.5M7 15V4M11 15V7.5M15 15V2.5",
  guards: "M9 2 3.5 4.2v4.3c0 3.5 2.3 6 5.5 7.5 3.2-1.5 5.5-4 5.5-7.5V4.2z",
  policy: "M4.5 2.5h6.5l3 3v10h-9.5zM11 2.5v3h3M7 9h4.5M7 12h4.5",
  approvals: "M9 16A7 7 0 1 0 9 2a7 7 0 0 0 0 14zM6 9.2l2.1 2.1L12.2 7",
  audit: "M4 3h10v12.5l-2.5-1.5L9 15.5 6.5 14 4 15.5zM6.7 6.5h4.6M6.7 9.5h4.6",
  stop: "M6 2.5h6L15.5 6v6L12 15.5H6L2.5 12V6zM9 6v3.5M9 12v.1",
  warn: "M9 2.5 16 15H2zM9 7v3.5M9 12.7v.1",
  bad: "M9 16A7 7 0 1 0 9 2a7 7 0 0 0 0 14zM9 5.5v4M9 12v.1",
  good: "M9 16A7 7 0 1 0 9 2a7 7 0 0 0 0 14zM6 9.2l2.1 2.1L12.2 7",
  info: "M9 16A7 7 0 1 0 9 2a7 7 0 0 0 0 14zM9 8.5V12M9 6v.1",
  person: "M9 9a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM3.5 15.5c.5-3 2.7-4.5 5.5-4.5s5 1.5 5.5 4.5",
  theme: "M9 2v14a7 7 0 0 0 0-14zM9 16A7 7 0 1 1 9 2",
  out: "M7 3H3.5v12H7M11 6l3 3-3 3M14 9H7",
  more: "M3.5 9h.1M9 9h.1M14.5 9h.1",
  none: "M3 5.5 9 2.5l6 3v7l-6 3-6-3zM3 5.5l6 3 6-3M9 8.5v7",
  down: "M9 3v8.5M5.5 8 9 11.5 12.5 8M3.5 15h11",
};

export const Icon = ({ name, size = 17 }) => html`
  <svg width=${size} height=${size} viewBox="0 0 18 18" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
    <path d=${PATHS[name] ?? PATHS.info} />
  </svg>`;

// -- data ------------------------------------------------------------------------------------------

const APART_MS = 1500;
const listeners = new Set();
/** Something happened: what is live looks again soon; at once (`now`) after what the operator did here. */
export function touch(now = true) {
  for (const listener of listeners) listener(now);
}

/** The answer of a path, asked again every `every` ms while the page is seen, and when something happened. */
export function useData(path, { every = 0, live = false } = {}) {
  const [state, setState] = useState({ data: null, error: null, path: null });
  const asked = useRef({ path: null, at: 0, busy: false, again: false });
  const load = useCallback(async () => {
    if (path === null) return;
    const mine = asked.current;
    if (mine.path === path && mine.busy) {
      // A slow answer is waited for, not overtaken.
      mine.again = true;
      return;
    }
    const turn = (asked.current = { path, at: Date.now(), busy: true, again: false });
    let found;
    try {
      found = { data: await get(path), error: null, path };
    } catch (error) {
      found = error.status === 401 ? null : { error };
    }
    turn.busy = false;
    if (turn !== asked.current) return;
    if (found) setState((old) => (found.path ? found : { data: old.path === path ? old.data : null, error: found.error, path }));
    if (turn.again) load();
  }, [path]);
  useEffect(() => {
    load();
    let timer = null;
    let soon = null;
    const tick = () => { if (!document.hidden) load(); };
    const hurry = (now) => {
      if (now) {
        clearTimeout(soon);
        soon = null;
      }
      if (soon === null) soon = setTimeout(() => { soon = null; tick(); }, now ? 60 : Math.max(450, asked.current.at + APART_MS - Date.now()));
    };
    if (every) timer = setInterval(tick, every);
    if (live) listeners.add(hurry);
    document.addEventListener("visibilitychange", tick);
    return () => {
      asked.current = { path: null, at: 0, busy: false, again: false };
      clearInterval(timer);
      clearTimeout(soon);
      listeners.delete(hurry);
      document.removeEventListener("visibilitychange", tick);
    };
  }, [load, every, live]);
  return { data: state.path === path ? state.data : null, error: state.path === path ? state.error : null, reload: load };
}

/** A list with a cursor: `rows`, and `more` while there is another page. */
export function usePages(path, { every = 0 } = {}) {
  const first = useData(path, { every, live: every > 0 });
  const [tail, setTail] = useState({ path, rows: [], cursor: undefined, error: null });
  const own = tail.path === path ? tail : { path, rows: [], cursor: undefined, error: null };
  const cursor = own.cursor === undefined ? first.data?.next_cursor : own.cursor;
  const busy = useRef(false);
  const more = async () => {
    if (busy.current) return;
    busy.current = true;
    try {
      const page = await get(`${path}${path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}`);
      setTail({ path, rows: [...own.rows, ...page.data], cursor: page.next_cursor, error: null });
    } catch (error) {
      setTail({ ...own, error });
    } finally {
      busy.current = false;
    }
  };
  const seen = new Set(first.data?.data.map((row) => row.id ?? row.seq));
  const rest = own.rows.filter((row) => !seen.has(row.id ?? row.seq) || (row.id ?? row.seq) === undefined);
  return { rows: first.data ? [...first.data.data, ...rest] : null, error: first.error ?? own.error, more: cursor ? more : null, reload: first.reload };
}

/** The time, once a second, for what is told as "4 s ago". */
export function useNow(every = 1000) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) setNow(Date.now()); }, every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

// -- small things ----------------------------------------------------------------------------------

export const Status = ({ status }) => html`<span class=${`pill ${statusTone(status)}`}>${status === "running" && html`<i class="dot live"></i>`}${statusWord(status)}</span>`;
export const Pill = ({ tone = "", title, children }) => html`<span class=${`pill ${tone}`} title=${title}>${children}</span>`;
export const Ago = ({ at, now }) => html`<time datetime=${at} title=${moment(at)}>${ago(at, now)}</time>`;
export const RunLink = ({ id, children }) => html`<a class="mono" href=${`#/runs/${encodeURIComponent(id)}`}>${children ?? id}</a>`;

export function Meter({ ratio, held = 0, label, warnAt = 0.75 }) {
  const shown = Math.max(0, Math.min(1, ratio));
  const tone = ratio >= 0.98 ? "bad" : ratio >= warnAt ? "warn" : "";
  return html`<span class=${`meter ${tone}`} role="meter" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(shown * 100)} aria-label=${label}>
    ${held > 0 && html`<i class="held" style=${{ width: `${shown * 100}%` }}></i>`}
    <i style=${{ width: `${Math.max(0, Math.min(1, ratio - held)) * 100}%` }}></i>
  </span>`;
}

export function Panel({ title, aside, children, id, className = "" }) {
  return html`<section class=${`panel ${className}`} aria-labelledby=${id}>
    <header><h2 id=${id}>${title}</h2>${aside && html`<div class="aside">${aside}</div>`}</header>
    ${children}
  </section>`;
}

export const Empty = ({ title, children, icon = "none" }) => html`<div class="empty"><${Icon} name=${icon} size=${28} /><strong>${title}</strong>${children && html`<p>${children}</p>`}</div>`;

export function Failed({ error, retry }) {
  const offline = error.status === 0;
  return html`<div class="notice bad" role="alert"><${Icon} name="bad" /><div class="fill"><strong>${offline ? "The gateway does not answer." : "This could not be loaded."}</strong> ${offline ? "What you see is the last that was known." : error.message}</div>
    ${retry && html`<button class="button tiny" onClick=${retry}>Try again</button>`}</div>`;
}

/** What is shown while data comes, and when it does not. */
export function Loaded({ state, children }) {
  if (state.data === null) return state.error ? html`<${Failed} error=${state.error} retry=${state.reload} />` : html`<div class="skeleton" role="status"><span class="hidden-text">Loading</span></div>`;
  return html`${state.error && html`<${Failed} error=${state.error} retry=${state.reload} />`}${children(state.data)}`;
}

export const Segments = ({ label, value, options, onChange }) => html`<div class="segments" role="group" aria-label=${label}>
  ${options.map(([key, text]) => html`<button type="button" key=${key} aria-pressed=${value === key} onClick=${() => onChange(key)}>${text}</button>`)}
</div>`;

export const Field = ({ label, hint, className = "", children }) => html`<label class=${`field ${className}`}><span>${label}</span>${children}${hint && html`<span class="hint">${hint}</span>`}</label>`;

/** A column's header that sorts; `sort` is [name, direction]. */
export function SortHead({ name, sort, onSort, className = "", children }) {
  const mine = sort[0] === name;
  const direction = mine ? (sort[1] < 0 ? "descending" : "ascending") : "none";
  return html`<th scope="col" class=${className} aria-sort=${direction}><button type="button" class="sort" onClick=${() => onSort([name, mine ? -sort[1] : -1])}>${children}</button></th>`;
}

/** A row that opens a run: a click anywhere, the link for keyboards and screen readers. */
export const openRow = (hash) => (event) => {
  if (event.target.closest("a, button, input, summary")) return;
  if (String(getSelection())) return;
  location.hash = hash;
};

export const Spark = ({ values, label }) => {
  const top = Math.max(...values, 1e-12);
  const x = (i) => (i / Math.max(1, values.length - 1)) * 100;
  const y = (v) => 38 - (v / top) * 35;
  const line = values.map((v, i) => `${i ? "L" : "M"}${x(i).toFixed(2)} ${y(v).toFixed(2)}`).join("");
  return html`<div class="spark" role="img" aria-label=${label}><svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true"><path class="area" d=${`${line}L100 40L0 40Z`} /><path class="line" d=${line} /></svg></div>`;
};

// -- dialogs and toasts ----------------------------------------------------------------------------

let show = () => {};
/** Shows a dialog made by `render(close)`; the focus stays in it, Escape closes it. */
export const openDialog = (render, options = {}) => show({ render, ...options });

export function Dialogs() {
  const [current, setCurrent] = useState(null);
  const ref = useRef(null);
  const back = useRef(null);
  show = (next) => { back.current = document.activeElement; setCurrent(next); };
  useLayoutEffect(() => {
    if (!current) return;
    ref.current.showModal();
    const first = ref.current.querySelector("[autofocus], input, textarea, select") ?? ref.current.querySelector("button");
    first?.focus();
  }, [current]);
  if (!current) return null;
  const close = () => {
    ref.current?.close();
    setCurrent(null);
    if (back.current?.isConnected) back.current.focus();
  };
  const keepFocus = (event) => {
    if (event.key !== "Tab") return;
    const inside = [...ref.current.querySelectorAll("a[href], button:not(:disabled), input:not(:disabled), select, textarea, [tabindex='0']")];
    const [first, last] = [inside[0], inside.at(-1)];
    if (event.shiftKey && document.activeElement === first) { event.preventDefault(); last?.focus(); }
    else if (!event.shiftKey && document.activeElement === last) { event.preventDefault(); first?.focus(); }
  };
  return html`<dialog ref=${ref} class=${current.wide ? "wide" : ""} aria-labelledby="dialog-title" onKeyDown=${keepFocus}
    onCancel=${(event) => { event.preventDefault(); close(); }} onMouseDown=${(event) => { if (event.target === ref.current) close(); }}>${current.render(close)}</dialog>`;
}

/** A dialog that does one thing; `send(values)` may throw an `ApiError`, which is shown in it. */
export function ActionForm({ title, intro, action, tone = "primary", fields = [], confirm, send, close }) {
  const [values, setValues] = useState(() => Object.fromEntries(fields.map((field) => [field.name, field.value ?? ""])));
  const [typed, setTyped] = useState("");
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const ready = fields.every((field) => field.optional || String(values[field.name]).trim()) && (!confirm || typed === confirm);
  const submit = async (event) => {
    event.preventDefault();
    if (!ready || busy) return;
    setBusy(true);
    setError(null);
    try {
      await send(values);
      close();
    } catch (problem) {
      setError(problem instanceof ApiError ? problem.message : "This did not work.");
      setBusy(false);
    }
  };
  const set = (name) => (event) => setValues((old) => ({ ...old, [name]: event.target.value }));
  return html`<form onSubmit=${submit}>
    <h2 id="dialog-title">${title}</h2>
    ${intro && html`<p class="soft">${intro}</p>`}
    ${fields.map((field) => html`<${Field} key=${field.name} label=${field.label} hint=${field.hint}>
      ${field.options
        ? html`<select value=${values[field.name]} onChange=${set(field.name)}>${field.options.map(([key, text]) => html`<option value=${key}>${text}</option>`)}</select>`
        : field.long
          ? html`<textarea maxlength="1000" value=${values[field.name]} onInput=${set(field.name)} placeholder=${field.placeholder}></textarea>`
          : html`<input type=${field.type ?? "text"} maxlength="1000" step="any" autocomplete="off" value=${values[field.name]} onInput=${set(field.name)} placeholder=${field.placeholder} />`}
    <//>`)}
    ${confirm && html`<${Field} label=${html`Type <b class="mono">${confirm}</b> to confirm`}><input type="text" autocomplete="off" spellcheck="false" value=${typed} onInput=${(event) => setTyped(event.target.value)} /><//>`}
    ${error && html`<div class="notice bad" role="alert"><${Icon} name="bad" /><div class="fill">${error}</div></div>`}
    <div class="buttons"><button type="button" class="button ghost" onClick=${close}>Cancel</button>
    <button type="submit" class=${`button ${tone === "danger" ? "danger solid" : "primary"}`} disabled=${!ready || busy}>${busy ? "…" : action}</button></div>
  </form>`;
}

export const ask = (options) => openDialog((close) => html`<${ActionForm} ...${options} close=${close} />`);

let tell = () => {};
export const toast = (text, tone = "good") => tell(text, tone);

export function Toasts() {
  const [list, setList] = useState([]);
  tell = (text, tone) => {
    const one = { id: Math.random(), text, tone };
    setList((old) => [...old.slice(-3), one]);
    setTimeout(() => setList((old) => old.filter((each) => each !== one)), 7000);
  };
  return html`<div class="toasts" role="status" aria-live="polite">${list.map((one) => html`<div class="toast" key=${one.id}><span class=${`${one.tone}-text`}><${Icon} name=${one.tone} /></span><div>${one.text}</div></div>`)}</div>`;
}

export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState };
