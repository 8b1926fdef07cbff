// Where the money goes, over time and by whom; what budgets come to; what was saved.

import { query } from "../api.js";
import { colour, Key, Stacked } from "../chart.js";
import { count, number, percent, short, until, usd } from "../format.js";
import { Empty, Field, html, Icon, Loaded, Meter, Panel, Pill, Segments, SortHead, useData, useMemo, useNow, useState } from "../ui.js";

const GROUPS = [["user", "User"], ["team", "Team"], ["model", "Model"], ["provider", "Provider"], ["session", "Session"], ["key", "Key"], ["surface", "API"], ["tag", "Tag"]];
const SPANS = [["1h", "1 h"], ["24h", "24 h"], ["7d", "7 d"], ["30d", "30 d"]];

export function Spend({ overview, values }) {
  const [group, setGroup] = useState(GROUPS.some(([key]) => key === values.by) ? values.by : "user");
  const [since, setSince] = useState("24h");
  const [tag, setTag] = useState("agent");
  const path = query("/timeseries", { group_by: group, tag: group === "tag" ? tag.trim() || "agent" : "", since, top: 8 });
  const series = useData(path, { every: 15000 });
  const savings = useData(query("/savings", { since }), { every: 30000 });
  return html`
    <div class="top"><h1>Spend</h1><div class="actions">
      <${Segments} label="Grouped by" value=${group} options=${GROUPS} onChange=${setGroup} />
      <${Segments} label="Time" value=${since} options=${SPANS} onChange=${setSince} />
    </div></div>
    ${group === "tag" && html`<div class="filters"><${Field} label="Tag’s name"><input type="text" value=${tag} onChange=${(event) => setTag(event.target.value)} /><//></div>`}
    <${Loaded} state=${series}>${(data) => html`<${Chart} data=${data} group=${GROUPS.find(([key]) => key === group)[1]} by=${group} since=${since} />`}<//>
    <div class="grid two">
      <${Loaded} state=${overview}>${(data) => html`<${Forecast} budgets=${data.budgets} />`}<//>
      <${Loaded} state=${savings}>${(data) => html`<${Savings} rows=${data.data} />`}<//>
    </div>`;
}

const nameOf = (one, by) => (one.others ? "everyone else" : one.group ?? `no ${by}`);

function Chart({ data, group, by, since }) {
  const shown = useMemo(() => data.series.map((one, i) => ({ label: nameOf(one, by), values: one.points, colour: colour(i, one.others) })), [data, by]);
  const [sort, setSort] = useState(["cost", -1]);
  const total = data.series.reduce((sum, one) => sum + number(one.cost_usd), 0);
  const saved = data.series.reduce((sum, one) => sum + number(one.saved_usd), 0);
  const calls = data.series.reduce((sum, one) => sum + one.attempts, 0);
  const tokens = data.series.reduce((sum, one) => sum + one.input_tokens + one.output_tokens, 0);
  const value = { cost: (one) => number(one.cost_usd), calls: (one) => one.attempts, input: (one) => one.input_tokens, output: (one) => one.output_tokens, saved: (one) => number(one.saved_usd) }[sort[0]];
  const rows = data.series.map((one, i) => ({ ...one, i })).sort((a, b) => sort[1] * (value(a) - value(b)));
  const head = { sort, onSort: setSort };
  return html`
    <${Panel} title=${`By ${group.toLowerCase()}`} id="by-group" aside=${html`<button class="button tiny" onClick=${() => download(data, by, since)}><${Icon} name="down" size=${14} /> CSV</button>`}>
      <dl class="stats even" style=${{ border: 0, borderRadius: 0, boxShadow: "none" }}>
        <div class="stat"><dt>Spent</dt><dd>${usd(total)}</dd></div><div class="stat"><dt>Saved</dt><dd class="good-text">${usd(saved)}</dd></div>
        <div class="stat"><dt>Calls</dt><dd>${count(calls)}</dd></div><div class="stat"><dt>Tokens</dt><dd>${short(tokens)}</dd></div><div class="stat"><dt>A call</dt><dd>${usd(calls ? total / calls : 0)}</dd></div>
      </dl>
      ${calls === 0 ? html`<${Empty} title="Nothing was spent in this time">Choose a longer time, or make a first call.<//>` : html`
        <div class="body stack tight"><${Stacked} at=${data.at} series=${shown} format=${usd} label="Spend over time" /><${Key} series=${shown} /></div>
        <div class="scroll"><table class="cards">
          <thead><tr><th scope="col">${group}</th><${SortHead} ...${head} name="cost" className="r">Spent<//><th scope="col" class="r">Share</th><${SortHead} ...${head} name="calls" className="r">Calls<//><${SortHead} ...${head} name="input" className="r">Tokens in<//><th scope="col" class="r">Cached</th><${SortHead} ...${head} name="output" className="r">Tokens out<//><${SortHead} ...${head} name="saved" className="r">Saved<//></tr></thead>
          <tbody>${rows.map((one) => html`<tr data-row key=${`${one.others}${one.group}`}><th scope="row"><i class="swatch" style=${{ background: colour(one.i, one.others), marginRight: "8px" }}></i>${one.others || one.group === null ? html`<span class="dim">${nameOf(one, by)}${one.others ? ` (${count(data.groups - data.series.length + 1)})` : ""}</span>` : by === "user" || by === "key" || by === "model" || by === "session" ? html`<a class="strong" href=${`#/runs?${new URLSearchParams({ [by]: one.group })}`}>${one.group}</a>` : html`<span class="strong">${one.group}</span>`}</th>
            <td class="r strong" data-label="Spent" title=${one.cost_usd}>${usd(one.cost_usd)}</td><td class="r dim" data-label="Share">${percent(total ? number(one.cost_usd) / total : 0)}</td><td class="r" data-label="Calls">${count(one.attempts)}</td><td class="r" data-label="Tokens in">${short(one.input_tokens)}</td><td class="r dim" data-label="Cached">${percent(one.input_tokens ? one.cached_tokens / one.input_tokens : 0)}</td><td class="r" data-label="Tokens out">${short(one.output_tokens)}</td><td class="r good-text" data-label="Saved">${number(one.saved_usd) ? usd(one.saved_usd) : html`<span class="dim">–</span>`}</td></tr>`)}</tbody></table></div>`}
    <//>`;
}

function Forecast({ budgets }) {
  const now = useNow(10_000);
  const rows = budgets.filter((each) => each.resets_at).sort((a, b) => number(b.forecast_usd) / number(b.limit_usd) - number(a.forecast_usd) / number(a.limit_usd));
  return html`<${Panel} title="Budgets, forecast" id="forecast" aside="linear, from the window’s beginning">
    ${rows.length === 0 ? html`<${Empty} title="No budget with a window is in use">A budget such as <code>{per: user, window: 1d}</code> gets a forecast here.<//>` : html`<div class="scroll"><table class="cards">
      <thead><tr><th scope="col">Budget</th><th scope="col" class="r">Used</th><th scope="col" class="r">Forecast</th><th scope="col" class="r">Limit</th><th scope="col">At the window’s end</th></tr></thead>
      <tbody>${rows.slice(0, 12).map((each) => {
        const ratio = number(each.forecast_usd) / number(each.limit_usd);
        return html`<tr data-row key=${`${each.name}/${each.id}`}><th scope="row"><span class="strong">${each.per === "global" ? "everyone" : each.id}</span><span class="sub">${each.name}, ${each.window}${each.mode === "shadow" ? ", shadow" : ""}</span></th>
        <td class="r" data-label="Used">${usd(each.used_usd)}</td><td class=${`r strong ${ratio > 1 ? "bad-text" : ""}`} data-label="Forecast">${each.forecast_usd === null ? "–" : usd(each.forecast_usd)}</td><td class="r" data-label="Limit">${usd(each.limit_usd)}</td>
        <td class="whole"><${Meter} ratio=${ratio} label=${`Forecast of ${each.name} of ${each.id}`} /><span class="sub">${each.runs_out_at ? html`<span class="warn-text">used up ${until(each.runs_out_at, now)}</span>` : `${percent(ratio)}, resets ${until(each.resets_at, now)}`}</span></td></tr>`;
      })}</tbody></table></div>`}
  <//>`;
}

function Savings({ rows }) {
  const total = rows.reduce((sum, each) => sum + number(each.saved_usd), 0);
  return html`<${Panel} title="Saved" id="savings" aside=${html`<span class="num good-text strong">${usd(total)}</span>`}>
    ${rows.length === 0 ? html`<${Empty} title="Nothing was saved in this time">Routing rules and the answer cache show here what they are worth.<//>` : html`<div class="scroll"><table class="cards">
      <thead><tr><th scope="col">Asked for</th><th scope="col">Served by</th><th scope="col" class="r">Calls</th><th scope="col" class="r">Saved</th></tr></thead>
      <tbody>${rows.map((each) => html`<tr data-row><th scope="row">${each.requested_model}</th><td data-label="Served by">${each.model === each.requested_model ? html`<${Pill} tone="good">kept answer<//>` : each.model}</td><td class="r" data-label="Calls">${count(each.attempts)}</td><td class="r strong good-text" data-label="Saved">${usd(each.saved_usd)}</td></tr>`)}</tbody></table></div>`}
  <//>`;
}

/** A cell that no spreadsheet takes for a formula. */
function cell(value) {
  const text = String(value ?? "");
  const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}

function download(data, by, since) {
  const lines = [["at", by, "cost_usd"].map(cell).join(",")];
  for (const one of data.series) {
    one.points.forEach((value, i) => { if (number(value)) lines.push([data.at[i], nameOf(one, by), value].map(cell).join(",")); });
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
  link.download = `spend-by-${by}-${since}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
