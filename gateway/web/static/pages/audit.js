// Who did what, in a chain that shows when a link was changed.

import { get } from "../api.js";
import { count, moment } from "../format.js";
import { Empty, Failed, Field, html, Icon, Panel, RunLink, Segments, useEffect, usePages, useRef, useState } from "../ui.js";

const FURTHER = 6;
/** The gateway records its own decisions in the same chain. */
const isPerson = (actor) => actor !== "gateway" && !/^(worker|key):/.test(actor);

export function Audit() {
  const list = usePages("/audit?limit=500", { every: 10000 });
  const [filter, setFilter] = useState({ who: "people", text: "", action: "" });
  const searched = useRef(0);
  const [check, setCheck] = useState(null);
  const verify = async () => {
    setCheck({ busy: true });
    try {
      setCheck(await get("/audit/verify"));
    } catch (error) {
      setCheck({ error });
    }
  };
  const actions = [...new Set((list.rows ?? []).map((row) => row.action))].sort();
  const wanted = filter.text.trim().toLowerCase();
  const rows = (list.rows ?? []).filter((row) => (filter.who === "all" || isPerson(row.actor)) && (!filter.action || row.action === filter.action) && (!wanted || `${row.actor} ${row.action} ${JSON.stringify(row.details)}`.toLowerCase().includes(wanted)));
  useEffect(() => {
    // What is looked for may be further back; so far the page looks by itself.
    if (rows.length < 30 && list.more && searched.current < FURTHER) {
      searched.current++;
      list.more();
    }
  }, [list.rows?.length, filter]);
  const change = (next) => { searched.current = 0; setFilter({ ...filter, ...next }); };
  return html`
    <div class="top"><h1>Audit</h1><div class="actions"><button class="button" onClick=${verify} disabled=${check?.busy}><${Icon} name="good" size=${15} /> ${check?.busy ? "Verifying…" : "Verify the chain"}</button></div></div>
    <div aria-live="polite">${check && !check.busy && html`<${Verdict} check=${check} />`}</div>
    <div class="filters" role="search" aria-label="Audit log">
      <${Field} label="Contains" className="wide"><input type="search" placeholder="Actor, run, reason…" value=${filter.text} onInput=${(event) => change({ text: event.target.value })} /><//>
      <${Field} label="Action"><select value=${filter.action} onChange=${(event) => change({ action: event.target.value })}><option value="">any</option>${actions.map((each) => html`<option value=${each}>${each}</option>`)}</select><//>
      <${Segments} label="Whose records" value=${filter.who} options=${[["people", "Operators"], ["all", "Everything"]]} onChange=${(who) => change({ who })} />
    </div>
    <${Panel} title="Newest first" id="records" aside=${list.rows && `${count(rows.length)} of ${count(list.rows.length)}${list.more ? "+" : ""} shown`}>
      ${list.error && html`<div class="body"><${Failed} error=${list.error} retry=${list.reload} /></div>`}
      ${list.rows === null ? !list.error && html`<div class="body"><div class="skeleton"></div></div>` : rows.length === 0 ? html`<${Empty} title=${list.rows.length ? "Nothing matches" : "No record yet"} icon="audit">Every change by an operator is recorded here.<//>` : html`<div class="scroll"><table class="cards">
        <thead><tr><th scope="col" class="r">#</th><th scope="col">When</th><th scope="col">Actor</th><th scope="col">Action</th><th scope="col">Details</th><th scope="col">Hash</th></tr></thead>
        <tbody>${rows.map((row) => html`<tr data-row key=${row.seq}><td class="r dim" data-label="Number">${row.seq}</td><td class="nowrap soft num" data-label="When">${moment(row.at)}</td><td class="strong" data-label="Actor">${row.actor}</td><td data-label="Action"><span class="mono">${row.action}</span></td><td class="whole" data-label="Details"><${Details} details=${row.details} /></td><td class="mono dim" data-label="Hash" title=${row.hash}>${row.hash.slice(0, 10)}</td></tr>`)}</tbody></table></div>`}
      ${list.more && html`<div class="body"><button class="button" onClick=${list.more}>Show more</button></div>`}
    <//>`;
}

const isRun = (name, details) => name === "run" || (name === "id" && details.scope === "run");

function Details({ details }) {
  const entries = Object.entries(details).filter(([, value]) => value !== null && value !== "");
  return html`<span class="facts" style=${{ color: "inherit", gap: "1px 14px" }}>${entries.slice(0, 9).map(([name, value]) => {
    const whole = typeof value === "object" ? JSON.stringify(value) : String(value);
    const text = /^[0-9a-f]{32,}$/.test(whole) ? `${whole.slice(0, 12)}…` : whole;
    return html`<span class="cut" style=${{ maxWidth: "380px" }} title=${whole}><span class="dim">${name}</span> ${isRun(name, details) ? html`<${RunLink} id=${whole} />` : text}</span>`;
  })}</span>`;
}

function Verdict({ check }) {
  if (check.error) return html`<${Failed} error=${check.error} />`;
  return check.ok
    ? html`<div class="notice good"><${Icon} name="good" /><div class="fill"><strong>The chain is whole.</strong> ${count(check.records)} records${check.head ? html`, head <span class="mono">${String(check.head.hash ?? check.head).slice(0, 16)}</span>` : ""}.</div></div>`
    : html`<div class="notice bad" role="alert"><${Icon} name="bad" /><div class="fill"><strong>The chain is broken${check.broken_at ? ` at record ${check.broken_at}` : ""}.</strong> ${check.reason}</div></div>`;
}
