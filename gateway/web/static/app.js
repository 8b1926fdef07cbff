// The frame: who is logged in, which page is shown, keys, theme, and the events that keep pages fresh.

import { render } from "preact";

import { follow, login, logout, readSession, whenLost } from "./api.js";
import { usd } from "./format.js";
import { Approvals } from "./pages/approvals.js";
import { Audit } from "./pages/audit.js";
import { Guards } from "./pages/guards.js";
import { Now } from "./pages/now.js";
import { Policy } from "./pages/policy.js";
import { Run } from "./pages/run.js";
import { Runs } from "./pages/runs.js";
import { Spend } from "./pages/spend.js";
import { Dialogs, Field, html, Icon, openDialog, toast, Toasts, touch, useData, useEffect, useRef, useState } from "./ui.js";

const PAGES = [
  ["now", "Now", Now],
  ["runs", "Runs", Runs],
  ["spend", "Spend", Spend],
  ["guards", "Guards", Guards],
  ["policy", "Policy", Policy],
  ["approvals", "Approvals", Approvals],
  ["audit", "Audit", Audit],
];
const logo = document.querySelector("link[rel=icon]").href;

function route() {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/");
  const values = Object.fromEntries(new URLSearchParams(search ?? ""));
  let id = null;
  try {
    id = rest.length ? decodeURIComponent(rest.join("/")) : null;
  } catch {
    id = rest.join("/");
  }
  return { page: PAGES.some(([name]) => name === page) ? page : "now", id, values };
}

function App() {
  const [state, setState] = useState({ ready: false, session: null, oidc: false, error: null });
  const check = async () => {
    try {
      setState({ ready: true, error: null, ...(await readSession()) });
    } catch (error) {
      setState({ ready: true, session: null, oidc: false, error });
    }
  };
  useEffect(() => {
    whenLost(() => setState((old) => (old.session ? { ...old, session: null, error: { message: "The session has ended. Log in again." } } : old)));
    check();
  }, []);
  if (!state.ready) return html`<div class="login" role="status"><span class="dim">Loading…</span></div>`;
  if (!state.session) return html`<${Login} oidc=${state.oidc} problem=${state.error} done=${check} />`;
  return html`<${Frame} session=${state.session} left=${check} />`;
}

// -- login -----------------------------------------------------------------------------------------

function Login({ oidc, problem, done }) {
  const [token, setToken] = useState("");
  const [error, setError] = useState(problem);
  const [busy, setBusy] = useState(false);
  useEffect(() => { document.title = "Log in · Guardrail gateway"; }, []);
  useEffect(() => setError(problem), [problem]);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await login(token.trim());
      await done();
    } catch (failed) {
      setError(failed);
      setBusy(false);
    }
  };
  return html`<main class="login" id="main">
    <form onSubmit=${submit}>
      <div class="brand"><img src=${logo} alt="" /><span>Guardrail gateway</span></div>
      <div class="stack tight"><h1>Log in</h1><p class="soft">With an admin token. The gateway’s own is in <code>.gateway/admin.token</code>, or what <code>GATEWAY_ADMIN_TOKEN</code> says.</p></div>
      <${Field} label="Admin token"><input type="password" name="token" autocomplete="current-password" required value=${token} onInput=${(event) => setToken(event.target.value)} autofocus /><//>
      ${error && html`<div class="notice bad" role="alert"><${Icon} name="bad" /><div class="fill">${error.status === 401 ? "This token is unknown, revoked or expired." : error.message}</div></div>`}
      <button class="button primary" disabled=${busy || !token.trim()}>${busy ? "…" : "Log in"}</button>
      ${oidc && html`<a class="button" href="/dashboard/oidc/login">Log in with single sign-on</a>`}
    </form>
  </main>`;
}

// -- frame -----------------------------------------------------------------------------------------

function Frame({ session, left }) {
  const [where, setWhere] = useState(route);
  const [stream, setStream] = useState("");
  const main = useRef(null);
  const overview = useData("/overview", { every: 2000, live: true });
  useEffect(() => {
    const moved = () => {
      setWhere(route());
      scrollTo(0, 0);
      main.current?.focus({ preventScroll: true });
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => follow((kind, facts) => { if (kind !== "step") touch(false); announce(kind, facts); }, setStream), []);
  useKeys();
  const [name, title, Page] = PAGES.find(([each]) => each === where.page);
  const shown = where.page === "runs" && where.id ? ["run", "Run", Run] : [name, title, Page];
  const burning = Number(overview.data?.spend.usd_per_min ?? 0);
  useEffect(() => { document.title = `${shown[0] === "now" && burning ? `${usd(burning)}/min · ` : ""}${shown[1]} · Guardrail gateway`; }, [shown[1], burning]);
  const waiting = overview.data?.approvals.data.length ?? 0;
  const Links = ({ phone }) => PAGES.map(([page, text]) => html`<li key=${page}>
    <a href=${`#/${page}`} aria-current=${where.page === page ? "page" : undefined} title=${phone ? undefined : text}>
      <${Icon} name=${page} /><span class="label">${text}</span>
      ${page === "approvals" && waiting > 0 && html`<span class="count"><span class="hidden-text">waiting: </span>${waiting}</span>`}
    </a></li>`);
  const leave = async () => {
    try {
      await logout();
    } finally {
      left();
    }
  };
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current?.focus(); }}>Skip to the content</a>
    <div class="frame">
      <aside class="side">
        <a class="brand" href="#/now"><img src=${logo} alt="" /><span>Guardrail gateway</span></a>
        <nav aria-label="Pages"><ul><${Links} /></ul></nav>
        <div class="foot">
          <${Health} overview=${overview} stream=${stream} />
          <div class="row">
            <div class="who"><div class="cut strong" title=${session.name}>${session.name}</div><div class="dim">${session.role}</div></div>
            <button class="button ghost icon" onClick=${toggleTheme} aria-label="Switch between light and dark" title="Light or dark (t)"><${Icon} name="theme" /></button>
            <button class="button ghost icon" onClick=${leave} aria-label="Log out" title="Log out"><${Icon} name="out" /></button>
          </div>
        </div>
      </aside>
      <main id="main" tabindex="-1" ref=${main}>
        <div class="page">
          ${overview.data && !overview.data.health.policy.healthy && html`<div class="notice bad" role="alert"><${Icon} name="warn" /><div class="fill"><strong>The policy on disk is refused; the last good one stays in force.</strong> ${overview.data.health.policy.error}</div></div>`}
          <${shown[2]} key=${`${shown[0]}/${where.id ?? ""}`} id=${where.id} values=${where.values} overview=${overview} session=${session} />
        </div>
      </main>
      <nav class="phone-bar" aria-label="Pages, at the bottom"><ul><${Links} phone=${true} /><li><a href="#" role="button" onClick=${(event) => { event.preventDefault(); menu(session, leave); }}><${Icon} name="more" /><span class="label">More</span></a></li></ul></nav>
    </div>
    <${Dialogs} /><${Toasts} />`;
}

function Health({ overview, stream }) {
  const health = overview.data?.health;
  const [tone, text] = overview.error
    ? ["bad", "No answer"]
    : !health ? ["", "Connecting"]
    : health.store !== "ok" ? ["bad", "Store unavailable"]
    : !health.policy.healthy ? ["bad", "Policy refused"]
    : stream === "live" ? ["live", "Live"] : ["warn", "Every 2 s"];
  return html`<div class="row" title=${health ? `Worker ${health.worker}, policy ${health.policy.version}` : undefined}>
    <i class=${`dot ${tone}`}></i><span class="label cut">${text}</span>
    ${health && html`<span class="label dim mono cut">${health.policy.version.slice(0, 8)}</span>`}
    <button class="button ghost tiny label" onClick=${help} aria-label="Keyboard shortcuts" title="Keyboard shortcuts"><kbd>?</kbd></button>
  </div>`;
}

function menu(session, leave) {
  openDialog((close) => html`<form onSubmit=${(event) => event.preventDefault()}>
    <h2 id="dialog-title">${session.name} <span class="dim">${session.role}</span></h2>
    <button type="button" class="button" onClick=${toggleTheme}><${Icon} name="theme" /> Light or dark</button>
    <button type="button" class="button" onClick=${() => { close(); leave(); }}><${Icon} name="out" /> Log out</button>
    <div class="buttons"><button type="button" class="button ghost" onClick=${close}>Close</button></div>
  </form>`);
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // It holds until the page is closed.
  }
}

// -- what is told as it happens ---------------------------------------------------------------------

const TOLD = {
  approval_requested: (facts) => [`${facts.tool} waits for approval`, "warn"],
  breaker_open: (facts) => [`Breaker open: ${facts.breaker}`, "bad"],
  spend_anomaly: (facts) => [`Unusual spend in run ${facts.run}`, "warn"],
  policy_reload_failed: () => ["The policy on disk is refused", "bad"],
  policy_rolled_back: (facts) => [`Policy rolled back${facts.version ? `: ${facts.version}` : ""}`, "warn"],
  upstream_credentials_rejected: (facts) => [`${facts.provider} rejects the gateway’s credentials`, "bad"],
};
function announce(kind, facts) {
  const told = TOLD[kind]?.(facts);
  if (told) toast(...told);
}

// -- keys ------------------------------------------------------------------------------------------

const GO = { n: "now", r: "runs", s: "spend", g: "guards", p: "policy", a: "approvals", l: "audit" };

function useKeys() {
  useEffect(() => {
    let armed = 0;
    const pressed = (event) => {
      if (event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (event.target.closest("input, textarea, select, [contenteditable]")) {
        if (event.key === "Escape") event.target.blur();
        return;
      }
      const key = event.key;
      if (Date.now() - armed < 1500 && GO[key]) {
        armed = 0;
        event.preventDefault();
        location.hash = `#/${GO[key]}`;
      } else if (key === "g") armed = Date.now();
      else if (key === "?") { event.preventDefault(); help(); }
      else if (key === "t") toggleTheme();
      else if (key === "/") { const field = document.querySelector("main .filters input, main .filters select"); if (field) { event.preventDefault(); field.focus(); } }
      else if (key === "j" || key === "k") moveRow(key === "j" ? 1 : -1);
      else if (key === "x") {
        const kill = document.activeElement?.closest("[data-row]")?.querySelector("button.danger");
        // Else the letter ends up in the dialog's first field.
        if (kill) { event.preventDefault(); kill.click(); }
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

function moveRow(by) {
  const rows = [...document.querySelectorAll("main [data-row]")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement?.closest("[data-row]"));
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by))];
  (next.querySelector("a, summary") ?? next).focus();
}

function help() {
  const keys = [
    ...Object.entries(GO).map(([key, page]) => [["g", key], `Go to ${PAGES.find(([name]) => name === page)[1]}`]),
    [["j"], "Next row"], [["k"], "Previous row"], [["Enter"], "Open the row"], [["x"], "Kill the run of the row"], [["/"], "First filter"], [["t"], "Light or dark"], [["?"], "This help"], [["Esc"], "Close, leave a field"],
  ];
  openDialog((close) => html`<form onSubmit=${(event) => event.preventDefault()}>
    <h2 id="dialog-title">Keyboard shortcuts</h2>
    <dl class="keys">${keys.map(([combo, text]) => html`<dt>${combo.map((key) => html`<kbd>${key}</kbd> `)}</dt><dd>${text}</dd>`)}</dl>
    <div class="buttons"><button type="button" class="button" onClick=${close}>Close</button></div>
  </form>`);
}

render(html`<${App} />`, document.getElementById("app"));
