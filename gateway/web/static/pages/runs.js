// Every run, newest first, by status and by whose it is.

import { query } from "../api.js";
import { count, duration, shortId, STATUSES, statusWord, usd } from "../format.js";
import { Ago, Empty, Failed, Field, html, openRow, Panel, Status, useNow, usePages, useState } from "../ui.js";

const SINCE = [["", "any time"], ["1h", "1 hour"], ["24h", "24 hours"], ["7d", "7 days"], ["30d", "30 days"]];

export function Runs({ values }) {
  const [filter, setFilter] = useState({ status: "", user: "", key: "", session: "", model: "", since: "", ...values });
  const [typed, setTyped] = useState(filter);
  const [name, setName] = useState("");
  const list = usePages(query("/runs", { ...filter, limit: 50 }), { every: 5000 });
  const now = useNow(5000);
  const apply = (changes) => {
    const next = { ...typed, ...changes };
    setTyped(next);
    setFilter(next);
    const search = query("", next);
    history.replaceState(null, "", `#/runs${search}`);
  };
  const text = (field, label) => html`<${Field} label=${label}><input type="search" value=${typed[field]} onInput=${(event) => setTyped({ ...typed, [field]: event.target.value })} onChange=${(event) => apply({ [field]: event.target.value.trim() })} /><//>`;
  const open = (event) => {
    event.preventDefault();
    if (name.trim()) location.hash = `#/runs/${encodeURIComponent(name.trim())}`;
    else apply({});
  };
  return html`
    <div class="top"><h1>Runs</h1></div>
    <form class="filters" onSubmit=${open} role="search" aria-label="Runs">
      <${Field} label="Run id or name" className="wide"><input type="search" placeholder="Open by id or name" value=${name} onInput=${(event) => setName(event.target.value)} /><//>
      <${Field} label="Status"><select value=${typed.status} onChange=${(event) => apply({ status: event.target.value })}><option value="">any</option>${STATUSES.map((each) => html`<option value=${each}>${statusWord(each)}</option>`)}</select><//>
      ${text("user", "User")}${text("key", "Key")}${text("model", "Model")}${text("session", "Session")}
      <${Field} label="Begun within"><select value=${typed.since} onChange=${(event) => apply({ since: event.target.value })}>${SINCE.map(([key, label]) => html`<option value=${key}>${label}</option>`)}</select><//>
      <button class="hidden-text">Search</button>
    </form>
    <${Panel} title="Newest first" id="runs">
      ${list.error && html`<div class="body"><${Failed} error=${list.error} retry=${list.reload} /></div>`}
      ${list.rows === null ? !list.error && html`<div class="body"><div class="skeleton" role="status"><span class="hidden-text">Loading</span></div></div>` : list.rows.length === 0 ? html`<${Empty} title="No runs here">Nothing matches. Runs appear with their first call.<//>` : html`
      <div class="scroll"><table class="cards">
        <thead><tr><th scope="col">Run</th><th scope="col">Status</th><th scope="col">User</th><th scope="col">Model</th><th scope="col" class="r">Steps</th><th scope="col" class="r">Tools</th><th scope="col" class="r">Cost</th><th scope="col" class="r">Lasted</th><th scope="col" class="r">Began</th></tr></thead>
        <tbody>${list.rows.map((run) => html`<${Row} key=${run.id} run=${run} now=${now} />`)}</tbody></table></div>
      ${list.more && html`<div class="body"><button class="button" onClick=${list.more}>Show more</button></div>`}`}
    <//>`;
}

function Row({ run, now }) {
  const hash = `#/runs/${encodeURIComponent(run.id)}`;
  const models = Object.keys(run.model_mix);
  const failed = Object.values(run.tools).reduce((sum, tool) => sum + tool.errors, 0);
  return html`<tr class="link" data-row onClick=${openRow(hash)}>
    <th scope="row"><a class="strong" href=${hash}>${run.name ?? run.agent ?? shortId(run.id)}</a><span class="sub mono">${shortId(run.id)}</span></th>
    <td data-label="Status"><${Status} status=${run.status} /></td>
    <td data-label="User">${run.end_user ?? run.user ?? run.key}<span class="sub">${run.team}</span></td>
    <td data-label="Model">${models[0] ?? html`<span class="dim">–</span>`}${models.length > 1 && html`<span class="dim" title=${models.join(", ")}> +${models.length - 1}</span>`}</td>
    <td class="r" data-label="Steps">${count(run.steps)}${run.refusals > 0 && html`<span class="warn-text" title="refused"> +${count(run.refusals)}</span>`}</td>
    <td class="r" data-label="Tools">${count(run.tool_calls)}${failed > 0 && html`<span class="bad-text" title="failed"> ${count(failed)}✕</span>`}</td>
    <td class="r strong" data-label="Cost" title=${run.cost_usd}>${usd(run.cost_usd)}</td>
    <td class="r dim" data-label="Lasted">${run.last_step_at ? duration(Date.parse(run.last_step_at) - Date.parse(run.started_at)) : "–"}</td>
    <td class="r dim" data-label="Began"><${Ago} at=${run.started_at} now=${now} /></td>
  </tr>`;
}
