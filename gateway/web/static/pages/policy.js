// The policy: what is in force, what is being tried, what came before, and a safe way to change it.

import { get, may, post } from "../api.js";
import { count, number, percent, usd } from "../format.js";
import { Ago, ask, Empty, Failed, Field, html, Icon, Loaded, openDialog, Panel, Pill, Segments, toast, touch, useData, useEffect, useNow, useState } from "../ui.js";
import { Diff, inShadow, rulesOf, Yaml } from "../yaml.js";
import { Changes } from "./run.js";

const TABS = [["force", "In force"], ["versions", "Versions"], ["edit", "Editor"]];
let draft = null;

export function Policy() {
  const [tab, setTab] = useState("force");
  const policy = useData("/policy", { every: 10000, live: true });
  const rollout = useData("/policy/rollout", { every: 4000, live: true });
  const tabs = may("operator") ? TABS : TABS.slice(0, 2);
  return html`
    <div class="top"><h1>Policy</h1><div class="actions"><${Segments} label="View" value=${tab} options=${tabs} onChange=${setTab} /></div></div>
    ${rollout.data?.problem && html`<div class="notice bad" role="alert"><${Icon} name="warn" /><div class="fill">${rollout.data.problem}</div></div>`}
    ${rollout.data?.candidate && html`<${Trial} rollout=${rollout.data} again=${rollout.reload} />`}
    <${Loaded} state=${policy}>${(data) => tab === "force" ? html`<${InForce} data=${data} />` : tab === "versions" ? html`<${Versions} active=${data.version} />` : html`<${Editor} data=${data} />`}<//>`;
}

function InForce({ data }) {
  const now = useNow(5000);
  return html`
    ${data.warnings.length > 0 && html`<div class="notice"><${Icon} name="warn" /><div class="fill"><strong>${count(data.warnings.length)} ${data.warnings.length === 1 ? "warning" : "warnings"}</strong><ul class="lines">${data.warnings.map((warning) => html`<li>${warning}</li>`)}</ul></div></div>`}
    <${Panel} title=${html`Version <span class="mono">${data.version}</span>`} id="in-force" aside=${html`<${Pill} tone=${data.healthy ? "good" : "bad"}>${data.healthy ? "healthy" : "refused on disk"}<//><span class="cut">${data.source}</span><${Ago} at=${data.loaded_at} now=${now} />`}>
      <${Yaml} text=${data.text ?? JSON.stringify(data.policy, null, 2)} label="The policy in force" />
    <//>`;
}

// -- what is being tried ---------------------------------------------------------------------------

function Trial({ rollout, again }) {
  const now = useNow(5000);
  const { candidate, baseline } = rollout;
  const ratio = (fared, name) => (fared && fared.runs ? number(fared[name]) / fared.runs : 0);
  const row = (label, name, show) => html`<tr><th scope="row">${label}</th><td class="r">${show(candidate, name)}</td><td class="r dim">${baseline ? show(baseline, name) : "–"}</td></tr>`;
  const share = (fared, name) => html`${percent(ratio(fared, name))} <span class="dim">${count(fared[name])}</span>`;
  const whole = candidate.share >= 1;
  return html`<${Panel} title=${whole ? "Rolled out, still watched" : "Being tried"} id="trial" aside=${html`<${Pill} tone=${candidate.worse ? "bad" : "accent"}>${percent(candidate.share)} of new runs<//>${candidate.watched && html`<span>rolls back by itself</span>`}`}>
    <div class="body grid two">
      <div class="stack tight"><p>Version <span class="mono strong">${candidate.version}</span> since <${Ago} at=${candidate.since} now=${now} />, by ${candidate.by}.</p>
        ${candidate.worse && html`<p class="bad-text">Its runs fare worse than the others.</p>`}
        ${may("admin") && html`<div class="tags">${!whole && html`<button class="button primary" onClick=${() => rollOut(candidate.version, again)}>Roll out to 100 %</button>`}<button class="button danger" onClick=${() => rollBack(null, again)}>Roll back</button></div>`}</div>
      <table><thead><tr><th scope="col"><span class="hidden-text">Figure</span></th><th scope="col" class="r">This version</th><th scope="col" class="r">${whole ? "The one before" : "The one in force"}</th></tr></thead><tbody>
        ${row("Runs", "runs", (fared, name) => count(fared[name]))}${row("Refused", "refused", share)}${row("Failed", "failed", share)}${row("Cost a run", "cost_usd", (fared) => usd(fared.runs ? number(fared.cost_usd) / fared.runs : 0))}
      </tbody></table>
    </div>
  <//>`;
}

function rollOut(version, again) {
  ask({
    title: "Roll out to 100 %",
    intro: `Version ${version} governs every new run from now on.`,
    fields: [{ name: "note", label: "Note", long: true, optional: true }],
    action: "Roll out",
    send: async (values) => {
      const { text } = await get(`/policy/versions/${encodeURIComponent(version)}`);
      await post("/policy", { policy: text, share: 1, ...(values.note.trim() ? { note: values.note.trim() } : {}) });
      toast(`Version ${version} governs.`);
      again();
      touch();
    },
  });
}

function rollBack(version, again) {
  ask({
    title: "Roll back",
    intro: version ? `Version ${version} governs again.` : "What is being tried ends; where nothing is, the version before governs again.",
    fields: [{ name: "reason", label: "Reason", long: true }],
    action: "Roll back",
    tone: "danger",
    send: async (values) => {
      const done = await post("/policy/rollback", { ...(version ? { version } : {}), reason: values.reason.trim() });
      toast(`Version ${done.version} governs.`);
      again();
      touch();
    },
  });
}

// -- versions --------------------------------------------------------------------------------------

function Versions({ active }) {
  const list = useData("/policy/versions", { every: 8000, live: true });
  const now = useNow(5000);
  return html`<${Loaded} state=${list}>${(data) => html`<${Panel} title="Versions" id="versions" aside="newest first">
    ${data.data.length === 0 ? html`<${Empty} title="No version yet" icon="policy" />` : html`<ol class="versions">${data.data.map((each) => html`<li key=${each.version} data-row>
      <div class="line"><a class="mono strong" href="#/policy" onClick=${(event) => { event.preventDefault(); showDiff(each.version); }}>${each.version}</a>
        ${each.version === active && html`<${Pill} tone="good">in force<//>`}${each.active && each.share < 1 && html`<${Pill} tone="accent">${percent(each.share)}<//>`}${each.rolled_back && html`<${Pill} tone="bad" title=${String(each.rolled_back)}>rolled back<//>`}
        <span class="dim small">${each.author}, <${Ago} at=${each.at} now=${now} /></span>
        <span style=${{ marginLeft: "auto" }} class="tags"><button class="button tiny" onClick=${() => showDiff(each.version)}>Diff</button>${may("admin") && each.version !== active && html`<button class="button tiny" onClick=${() => rollBack(each.version, list.reload)}>Govern again</button>`}</span></div>
      ${each.note && html`<p class="soft small">${each.note}</p>`}</li>`)}</ol>`}
  <//>`}<//>`;
}

async function showDiff(version) {
  try {
    const { diff, against } = await get(`/policy/versions/${encodeURIComponent(version)}/diff`);
    openDialog((close) => html`<form onSubmit=${(event) => event.preventDefault()}>
      <h2 id="dialog-title"><span class="mono">${version}</span> <span class="dim">against ${against ?? "nothing"}</span></h2>
      ${diff ? html`<${Diff} text=${diff} />` : html`<p class="soft">They say the same.</p>`}
      <div class="buttons"><button type="button" class="button" onClick=${close}>Close</button></div></form>`, { wide: true });
  } catch (error) {
    toast(error.message, "bad");
  }
}

// -- editor ----------------------------------------------------------------------------------------

function Editor({ data }) {
  const start = data.text ?? "";
  const [text, setText] = useState(draft ?? start);
  const [checked, setChecked] = useState(null);
  const [tried, setTried] = useState(null);
  const [since, setSince] = useState("24h");
  const [busy, setBusy] = useState("");
  const [rule, setRule] = useState("");
  useEffect(() => { draft = text === start ? null : text; }, [text, start]);
  const edit = (next) => { setText(next); setChecked(null); setTried(null); };
  const run = async (name, work) => {
    setBusy(name);
    try {
      await work();
    } catch (error) {
      toast(error.message, "bad");
    }
    setBusy("");
  };
  const validate = () => run("validate", async () => setChecked({ text, ...(await post("/policy/validate", { policy: text })) }));
  const backtest = () => run("backtest", async () => {
    try {
      setTried({ text, result: await post("/policy/backtest", { policy: text, since }) });
    } catch (error) {
      setTried({ text, error });
    }
  });
  const shadow = () => {
    const path = rulesOf(data.policy).find(([label]) => label === rule)?.[1];
    const next = path && inShadow(text, path);
    if (next) { edit(next); toast(`${rule} is in shadow in this draft.`); } else toast("This rule was not found in the text; write mode: shadow by hand.", "warn");
  };
  const stage = () => ask({
    title: "Stage this policy",
    intro: "It governs a share of new runs, and is rolled back by itself when they are refused or fail more often than the others.",
    fields: [
      { name: "share", label: "Share of new runs", options: [["0.05", "5 %"], ["0.1", "10 %"], ["0.25", "25 %"], ["0.5", "50 %"], ["1", "100 %: everything"], ["0", "none: keep it for later"]], value: "0.1" },
      { name: "note", label: "Note", long: true, placeholder: "What changes, and why" },
    ],
    action: "Stage",
    send: async (values) => {
      const made = await post("/policy", { policy: text, note: values.note.trim(), share: Number(values.share) });
      draft = null;
      toast(`Version ${made.version} is staged for ${percent(number(values.share))} of new runs.`);
      touch();
    },
  });
  const valid = checked?.valid && checked.text === text;
  const onKey = (event) => {
    // Tab leaves the field, as everywhere; Ctrl+Enter validates.
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); validate(); }
  };
  return html`<div class="grid main-side">
    <${Panel} title="Draft" id="draft" aside=${html`${text === start ? "as in force" : html`<${Pill} tone="accent">changed<//><button class="button tiny" onClick=${() => edit(start)}>Start over</button>`}`}>
      <div class="body stack tight">
        <label class="field"><span class="hidden-text">Policy as YAML</span><textarea class="code" spellcheck="false" autocapitalize="off" value=${text} onInput=${(event) => edit(event.target.value)} onKeyDown=${onKey}></textarea></label>
        <div class="filters">
          <button class="button primary" disabled=${busy !== ""} onClick=${validate}>${busy === "validate" ? "Validating…" : "Validate"}</button>
          <button class="button" disabled=${busy !== ""} onClick=${backtest}>${busy === "backtest" ? "Backtesting…" : "Backtest"}</button>
          <select aria-label="Runs to backtest" style=${{ width: "auto" }} value=${since} onChange=${(event) => setSince(event.target.value)}>${[["1h", "last hour"], ["24h", "last 24 hours"], ["7d", "last 7 days"]].map(([key, label]) => html`<option value=${key}>${label}</option>`)}</select>
          ${may("admin") && html`<button class="button" disabled=${!valid} title=${valid ? undefined : "Validate it first"} onClick=${stage}>Stage…</button>`}
        </div>
      </div>
    <//>
    <div class="stack">
      <${Panel} title="Set a rule to shadow" id="to-shadow"><div class="body stack tight"><p class="soft small">In shadow a rule decides and records, and never acts.</p>
        <div class="line" style=${{ display: "flex", gap: "8px" }}><select aria-label="Rule" value=${rule} onChange=${(event) => setRule(event.target.value)}><option value="">Choose a rule</option>${rulesOf(data.policy).map(([label]) => html`<option value=${label}>${label}</option>`)}</select><button class="button" disabled=${!rule} onClick=${shadow}>Shadow</button></div></div><//>
      <${Checked} checked=${checked} current=${checked?.text === text} />
      <${Backtested} tried=${tried} />
    </div>
  </div>`;
}

function Checked({ checked }) {
  if (!checked) return html`<${Panel} title="Validation" id="validation"><${Empty} title="Not validated yet" icon="policy">Every mistake is told with its line.<//><//>`;
  return html`<${Panel} title="Validation" id="validation" aside=${html`<${Pill} tone=${checked.valid ? "good" : "bad"}>${checked.valid ? "valid" : `${count(checked.mistakes.length)} mistakes`}<//>`}>
    <div class="body stack tight" role="status">${checked.valid ? html`<p>Version <span class="mono strong">${checked.version}</span> can be put in force.</p>` : html`<ul class="lines">${checked.mistakes.map((mistake) => html`<li><span class="bad-text"><${Icon} name="bad" size=${13} /></span><span class="dim num">line ${mistake.line}</span><span class="mono">${mistake.path}</span><span>${mistake.problem}</span></li>`)}</ul>`}
      ${checked.warnings.length > 0 && html`<ul class="lines">${checked.warnings.map((warning) => html`<li><span class="warn-text"><${Icon} name="warn" size=${13} /></span><span class="fill">${warning}</span></li>`)}</ul>`}</div>
  <//>`;
}

function Backtested({ tried }) {
  if (!tried) return html`<${Panel} title="Backtest" id="backtest"><${Empty} title="Not backtested yet" icon="runs">What this policy would have done to the runs that were recorded.<//><//>`;
  if (tried.error) {
    const gone = tried.error.status === 404 || tried.error.status === 501 || tried.error.status === 405;
    return html`<${Panel} title="Backtest" id="backtest"><div class="body">${gone ? html`<div class="notice plain"><${Icon} name="info" /><div class="fill">This gateway cannot backtest: ${tried.error.message}</div></div>` : html`<${Failed} error=${tried.error} />`}</div><//>`;
  }
  const result = tried.result;
  const size = (value) => (Array.isArray(value) ? value.length : typeof value === "object" && value !== null ? Object.keys(value).length : number(value));
  return html`<${Panel} title="Backtest" id="backtest" aside=${html`<span class="num">${count(result.runs)} runs, ${count(result.steps)} steps</span>`}>
    <dl class="stats even" style=${{ border: 0, borderRadius: 0, boxShadow: "none" }} role="status">
      <div class="stat"><dt>Differ</dt><dd>${count((result.changed ?? []).filter((each) => each.now !== "unknown").length)}</dd></div><div class="stat"><dt>Refused</dt><dd>${count(size(result.refused))}</dd></div><div class="stat"><dt>Saved</dt><dd>${usd(result.saved_usd)}</dd></div><div class="stat"><dt>Unknown</dt><dd>${count(size(result.unknown))}</dd></div>
    </dl>
    ${result.changed?.length > 0 ? html`<div class="scroll tall"><${Changes} changed=${result.changed} /></div>` : html`<div class="body"><p class="soft">No decision would have been another.</p></div>`}
  <//>`;
}
