// Tool calls that wait for a person, and what was decided about others.

import { decide } from "../actions.js";
import { may, query } from "../api.js";
import { dayTime, shortId, until, usd, words } from "../format.js";
import { Empty, Failed, html, Icon, Loaded, Panel, Pill, RunLink, Segments, useData, useNow, usePages, useState } from "../ui.js";

const STATES = [["", "All"], ["approved", "Approved"], ["denied", "Denied"], ["expired", "Expired"]];
const TONES = { approved: "good", denied: "bad", expired: "", pending: "warn" };

export function Approvals() {
  const waiting = useData("/approvals?state=pending&limit=100", { every: 2000, live: true });
  const [state, setState] = useState("");
  const now = useNow();
  return html`
    <div class="top"><h1>Approvals</h1></div>
    <${Loaded} state=${waiting}>${(data) => html`<${Panel} title="Waiting" id="waiting" aside=${`${data.data.length} ${data.data.length === 1 ? "call" : "calls"}`}>
      <div aria-live="polite">${data.data.length === 0 ? html`<${Empty} title="Nothing waits" icon="good">Calls of tools with <code>requires_approval: true</code> show here while the agent waits.<//>` : html`<ul class="versions">${data.data.map((one) => html`<${Waiting} key=${one.id} one=${one} now=${now} />`)}</ul>`}</div>
    <//>`}<//>
    <${History} state=${state} setState=${setState} />`;
}

function Waiting({ one, now }) {
  return html`<li data-row>
    <div class="line"><span class="strong">${one.tool}</span><span class="dim">for ${one.user ?? one.key}${one.team ? `, ${one.team}` : ""}</span><${RunLink} id=${one.run}>${shortId(one.run)}<//><span class="dim small">run so far ${usd(one.cost_usd)}</span>
      <span class="dim small" style=${{ marginLeft: "auto" }}>${until(one.expires_at, now).replace("in ", "")} left</span></div>
    <pre class="code" tabindex="0" aria-label="Arguments" style=${{ maxHeight: "220px", padding: "8px 12px", background: "var(--sunk)", borderRadius: "8px", whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>${pretty(one.arguments)}</pre>
    ${one.truncated && html`<p class="warn-text small"><${Icon} name="warn" size=${13} /> The arguments are longer than what is shown.</p>`}
    ${may("operator") && html`<div class="tags"><button class="button primary" onClick=${() => decide(one, "approve")}>Approve</button><button class="button danger" onClick=${() => decide(one, "deny")}>Deny</button></div>`}
  </li>`;
}

export function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function History({ state, setState }) {
  const list = usePages(query("/approvals", { state, limit: 50 }), { every: 8000 });
  const rows = (list.rows ?? []).filter((one) => one.state !== "pending");
  return html`<${Panel} title="Decided" id="decided" aside=${html`<${Segments} label="Decision" value=${state} options=${STATES} onChange=${setState} />`}>
    ${list.error && html`<div class="body"><${Failed} error=${list.error} retry=${list.reload} /></div>`}
    ${list.rows !== null && rows.length === 0 ? html`<${Empty} title="Nothing here yet" icon="approvals" />` : html`<div class="scroll"><table class="cards">
      <thead><tr><th scope="col">Tool</th><th scope="col">Decision</th><th scope="col">By</th><th scope="col">Reason</th><th scope="col">Run</th><th scope="col" class="r">Asked</th></tr></thead>
      <tbody>${rows.map((one) => html`<tr data-row key=${one.id}><th scope="row"><span class="strong">${one.tool}</span><span class="sub cut mono" style=${{ maxWidth: "260px" }} title=${one.arguments}>${one.arguments}</span></th><td data-label="Decision"><${Pill} tone=${TONES[one.state]}>${words(one.state)}<//>${one.state === "approved" && !one.used_at && html`<span class="sub">not used yet</span>`}</td><td data-label="By">${one.decided_by ?? html`<span class="dim">nobody</span>`}</td><td class="soft whole" data-label="Reason">${one.reason}</td><td data-label="Run"><${RunLink} id=${one.run}>${shortId(one.run)}<//></td><td class="r dim" data-label="Asked">${dayTime(one.created_at)}</td></tr>`)}</tbody></table></div>
    ${list.more && html`<div class="body"><button class="button" onClick=${list.more}>Show more</button></div>`}`}
  <//>`;
}
