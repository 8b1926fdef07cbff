// What is burning, and why; and what stops it.

import { decide, killRun, resetBreaker, revive, stopEverything } from "../actions.js";
import { may } from "../api.js";
import { count, figure, percent, short, shortId, statusTone, statusWord, until, usd, words } from "../format.js";
import { Ago, Empty, html, Icon, Loaded, Meter, openRow, Panel, Pill, RunLink, SortHead, Spark, useNow, useState } from "../ui.js";

export function Now({ overview }) {
  return html`
    <div class="top"><h1>Now</h1>
      <div class="actions">
        ${may("operator") && html`<button class="button danger" onClick=${stopEverything}><${Icon} name="stop" size=${15} /> Stop everything</button>`}
      </div>
    </div>
    <${Loaded} state=${overview}>${(data) => html`<${Picture} data=${data} />`}<//>`;
}

function Picture({ data }) {
  const now = useNow();
  const everything = data.kills.find((kill) => kill.scope === "global");
  return html`
    ${everything && html`<div class="notice bad" role="alert"><${Icon} name="stop" /><div class="fill"><strong>Everything is stopped.</strong> ${everything.reason} <span class="small">by ${everything.by}, <${Ago} at=${everything.at} now=${now} /></span></div>
      ${may("operator") && html`<button class="button tiny" onClick=${() => revive("global", "all")}>Revive</button>`}</div>`}
    <${Figures} data=${data} />
    <div class="grid main-side">
      <div class="stack">
        <${LiveRuns} runs=${data.runs} now=${now} />
        ${data.failures.length > 0 && html`<${Failures} failures=${data.failures} now=${now} />`}
        <${Feed} events=${data.happened} now=${now} />
      </div>
      <div class="stack">
        ${data.approvals.data.length > 0 && html`<${Waiting} approvals=${data.approvals} now=${now} />`}
        ${data.breakers.length > 0 && html`<${Breakers} breakers=${data.breakers} now=${now} />`}
        ${data.kills.length > 0 && html`<${Kills} kills=${data.kills} now=${now} />`}
        <${Budgets} budgets=${data.budgets} now=${now} />
      </div>
    </div>`;
}

function Figures({ data }) {
  const { spend, runs } = data;
  const [rate, before] = [Number(spend.usd_per_min), Number(spend.before_usd_per_min)];
  const change = before > 0 ? (rate - before) / before : null;
  const refusals = spend.minutes.reduce((sum, each) => sum + each.refusals, 0);
  return html`<dl class="stats" aria-label="Figures">
    <div class="stat big"><dt>Spend rate, last 5 minutes</dt>
      <dd class="num">${usd(rate)}<span class="unit">/ min</span></dd>
      <dd class="more">${change === null ? `${usd(spend.hour_usd)} in the last hour` : html`<span class=${change > 0.5 ? "bad-text" : ""}>${change >= 0 ? "↑" : "↓"} ${change >= 5 ? `${short(rate / before)}×` : percent(Math.abs(change))}</span> on the 5 minutes before, ${usd(spend.hour_usd)} in the last hour`}</dd>
      <${Spark} values=${spend.minutes.map((each) => Number(each.cost_usd))} label=${`Spend of the last hour by the minute, ${usd(spend.hour_usd)} in all`} />
    </div>
    <div class="stat"><dt>Today (UTC)</dt><dd>${usd(spend.today_usd)}</dd><dd class="more">${count(spend.steps_today)} calls</dd></div>
    <div class="stat"><dt>Saved today</dt><dd>${usd(spend.saved_today_usd)}</dd><dd class="more">by routing and caches</dd></div>
    <div class="stat"><dt>Live runs</dt><dd>${count(runs.live)}</dd><dd class="more">${spend.steps_per_min} calls / min</dd></div>
    <div class="stat"><dt>Refused, last hour</dt><dd class=${refusals ? "warn-text" : ""}>${count(refusals)}</dd><dd class="more">beside ${count(spend.minutes.reduce((sum, each) => sum + each.steps, 0))} calls</dd></div>
  </dl>`;
}

const BY = {
  burn: (run) => Number(run.burn_usd_per_min),
  cost: (run) => Number(run.cost_usd),
  steps: (run) => run.steps,
  limit: (run) => run.nearest?.ratio ?? 0,
  age: (run) => -Date.parse(run.started_at),
};

function LiveRuns({ runs, now }) {
  const [sort, setSort] = useState(["burn", -1]);
  const rows = [...runs.data].sort((a, b) => sort[1] * (BY[sort[0]](a) - BY[sort[0]](b)));
  const head = { sort, onSort: setSort };
  return html`<${Panel} title="Live runs" id="live-runs" aside=${runs.live > rows.length ? html`<a href="#/runs?status=running">all ${count(runs.live)}</a>` : html`<a href="#/runs">All runs</a>`}>
    ${rows.length === 0
      ? html`<${Empty} title="Nothing is running" icon="good">Runs appear here with their first call. Point an agent’s base URL at this gateway.<//>`
      : html`<div class="scroll"><table class="runs-table cards">
        <thead><tr><th scope="col">Run</th><${SortHead} ...${head} name="burn" className="r">Burn<//><${SortHead} ...${head} name="cost" className="r">Cost<//><${SortHead} ...${head} name="steps" className="r">Steps<//><${SortHead} ...${head} name="age" className="r">Age<//><${SortHead} ...${head} name="limit"><span>Nearest limit</span><//><th scope="col"><span class="hidden-text">Actions</span></th></tr></thead>
        <tbody>${rows.map((run) => html`<${LiveRun} key=${run.id} run=${run} now=${now} />`)}</tbody></table></div>`}
  <//>`;
}

function LiveRun({ run, now }) {
  const hash = `#/runs/${encodeURIComponent(run.id)}`;
  const burn = Number(run.burn_usd_per_min);
  return html`<tr class="link" data-row onClick=${openRow(hash)}>
    <th scope="row"><div class="cut"><a class="strong" href=${hash}>${run.name ?? run.agent ?? shortId(run.id)}</a></div><span class="sub cut small dim">${[run.user ?? run.key, run.team, Object.keys(run.model_mix).at(-1)].filter(Boolean).join(" · ")}</span></th>
    <td class="r strong" data-label="Burn">${burn ? html`${usd(burn)}<span class="dim">/min</span>` : html`<span class="dim">idle</span>`}</td>
    <td class="r" data-label="Cost" title=${run.cost_usd}>${usd(run.cost_usd)}</td>
    <td class="r" data-label="Steps">${count(run.steps)}</td>
    <td class="r dim" data-label="Age">${until(new Date(2 * now - Date.parse(run.started_at)).toISOString(), now).replace("in ", "")}</td>
    <td data-label="Nearest limit" class="whole">${run.nearest ? html`<${Nearest} nearest=${run.nearest} />` : html`<span class="dim">none</span>`}</td>
    <td class="act whole">${may("operator") && html`<button class="button tiny danger" onClick=${() => killRun(run.id)}>Kill<span class="hidden-text"> ${run.name ?? run.id}</span></button>`}</td>
  </tr>`;
}

function Nearest({ nearest }) {
  const text = `${figure(nearest.used, nearest.what)} of ${figure(nearest.limit, nearest.what)}`;
  return html`<div class="stack" style=${{ gap: "3px" }} title=${`${nearest.rule}: ${text}`}>
    <div class="small cut"><span class="num strong">${percent(nearest.ratio)}</span> <span class="dim">of ${nearest.what === "usd" ? `${nearest.rule} budget` : nearest.what === "seconds" ? "its time" : `its ${nearest.what}`}</span></div>
    <${Meter} ratio=${nearest.ratio} label=${`${nearest.rule}: ${text}`} /></div>`;
}

function Budgets({ budgets, now }) {
  return html`<${Panel} title="Budgets" id="budgets" aside=${html`<a href="#/spend">Forecast</a>`}>
    ${budgets.length === 0 ? html`<${Empty} title="No budget is in use">Budgets of users, teams and everyone show here once they are spent from.<//>` : html`<ul class="budgets">${budgets.slice(0, 8).map((budget) => html`<${BudgetLine} key=${`${budget.name}/${budget.id}`} budget=${budget} now=${now} />`)}</ul>`}
  <//>`;
}

export function BudgetLine({ budget, now }) {
  const held = Number(budget.reserved_usd) / Number(budget.limit_usd);
  const whose = budget.per === "global" ? "everyone" : budget.id;
  return html`<li>
    <div class="line"><span class="fill cut"><span class="strong">${whose}</span> <span class="dim">${budget.name}</span>${budget.mode === "shadow" && html` <${Pill}>shadow<//>`}</span><span class="num small">${usd(budget.used_usd)} <span class="dim">of ${usd(budget.limit_usd)}</span></span></div>
    <${Meter} ratio=${budget.ratio} held=${held} warnAt=${budget.warn_at ?? 0.75} label=${`Budget ${budget.name} of ${whose}`} />
    <div class="line small dim"><span class="fill num">${percent(budget.ratio)} used</span><span>${budget.runs_out_at ? html`<span class="warn-text">at this pace used up ${until(budget.runs_out_at, now)}</span>` : budget.resets_at ? `resets ${until(budget.resets_at, now)}` : ""}</span></div>
  </li>`;
}

function Waiting({ approvals, now }) {
  return html`<${Panel} title="Waiting for approval" id="waiting" aside=${html`<a href="#/approvals">All</a>`}>
    <ul class="feed">${approvals.data.slice(0, 5).map((one) => html`<li key=${one.id}><span class="warn-text"><${Icon} name="approvals" /></span>
      <div><p><span class="strong">${one.tool}</span> <span class="dim">for ${one.user ?? one.key}</span></p>
        <p class="mono small dim cut" title=${one.arguments}>${one.arguments}</p>
        ${may("operator") && html`<div class="tags" style=${{ marginTop: "6px" }}><button class="button tiny primary" onClick=${() => decide(one, "approve")}>Approve</button><button class="button tiny danger" onClick=${() => decide(one, "deny")}>Deny</button></div>`}</div>
      <time datetime=${one.expires_at}>${until(one.expires_at, now).replace("in ", "")} left</time></li>`)}</ul>
  <//>`;
}

function Breakers({ breakers, now }) {
  return html`<${Panel} title="Breakers not closed" id="breakers">
    <ul class="feed">${breakers.map((breaker) => html`<li key=${breaker.id}><span class=${breaker.state === "open" ? "bad-text" : "warn-text"}><${Icon} name="warn" /></span>
      <div><p><span class="strong">${breaker.name}</span> <${Pill} tone=${breaker.state === "open" ? "bad" : "warn"}>${words(breaker.state)}<//></p><p class="small dim">${breaker.kind}${breaker.scope === "shared" ? "" : `, ${breaker.scope}`}: ${count(breaker.failed)} of ${count(breaker.failed + breaker.ok)} calls failed${breaker.until && Date.parse(breaker.until) > now ? `; probes ${until(breaker.until, now)}` : ""}</p></div>
      ${may("operator") && html`<button class="button tiny" onClick=${() => resetBreaker(breaker)}>Close</button>`}</li>`)}</ul>
  <//>`;
}

function Kills({ kills, now }) {
  return html`<${Panel} title="Kills in force" id="kills">
    <ul class="feed">${kills.slice(0, 8).map((kill) => html`<li key=${kill.kill_id}><span class="bad-text"><${Icon} name="stop" /></span>
      <div><p><span class="dim">${kill.scope}</span> ${kill.scope === "run" ? html`<${RunLink} id=${kill.id}>${shortId(kill.id)}<//>` : html`<span class="strong">${kill.id}</span>`}</p><p class="small dim">${kill.reason} · ${kill.by}, <${Ago} at=${kill.at} now=${now} /></p></div>
      ${may("operator") && html`<button class="button tiny" onClick=${() => revive(kill.scope, kill.id)}>Revive</button>`}</li>`)}</ul>
  <//>`;
}

function Feed({ events, now }) {
  return html`<${Panel} title="What happened" id="feed" className="happened">
    ${events.length === 0 ? html`<${Empty} title="All quiet" icon="good">Refusals, stopped runs and what operators do show here.<//>` : html`<ul class="feed tall">${events.map((event, i) => html`<li key=${`${event.at}${event.kind}${i}`}>
      <span class=${`${event.level === "info" ? "" : event.level}${event.level === "info" ? "dim" : "-text"}`}><${Icon} name=${event.level === "info" ? "person" : event.kind === "run_stopped" ? "stop" : "warn"} /></span>
      <${Told} event=${event} /><${Ago} at=${event.at} now=${now} /></li>`)}</ul>`}
  <//>`;
}

function Told({ event }) {
  const run = event.run && html`<${RunLink} id=${event.run}>${shortId(event.run)}<//>`;
  if (event.kind === "run_stopped") return html`<p><${Pill} tone=${statusTone(event.status)}>${statusWord(event.status)}<//> ${run}<span class="small dim"> ${[event.user, usd(event.cost_usd), event.status === "killed" ? event.reason : null].filter(Boolean).join(" · ")}</span></p>`;
  if (event.kind === "refusal") return html`<p>${words(event.code)}${event.count > 1 && html` <span class="num">×${short(event.count)}</span>`} ${run}<span class="small dim"> rule ${event.rule}${event.user ? ` · ${event.user}` : ""}</span></p>`;
  const what = {
    "kill.set": html`killed ${event.scope} <span class="mono">${shortId(event.id ?? "")}</span>`,
    "kill.revive": html`revived ${event.scope} <span class="mono">${shortId(event.id ?? "")}</span>`,
    "budget.topup": html`added ${usd(event.amount_usd)} to ${event.budget}`,
    "breaker.reset": html`closed breaker ${event.breaker}`,
  }[event.kind] ?? html`${words(event.kind).toLowerCase()} <span class="mono">${shortId(event.version ?? "")}</span>`;
  return html`<p><span class="strong">${String(event.by).startsWith("worker:") ? "gateway" : event.by}</span> ${what}${(event.reason ?? event.note) && html`<span class="small dim"> ${event.reason ?? event.note}</span>`}</p>`;
}

function Failures({ failures, now }) {
  return html`<${Panel} title="Provider errors, last 15 minutes" id="failures">
    <div class="scroll"><table class="cards"><thead><tr><th scope="col">Provider</th><th scope="col">Model</th><th scope="col">Error</th><th scope="col" class="r">Calls</th><th scope="col" class="r">Last</th></tr></thead>
    <tbody>${failures.map((one) => html`<tr data-row><th scope="row" class="strong">${one.provider}</th><td data-label="Model">${one.model}</td><td data-label="Error"><span class="bad-text">${words(one.error)}</span>${one.http_status && html` <span class="dim num">${one.http_status}</span>`}</td><td class="r" data-label="Calls">${count(one.count)}</td><td class="r dim" data-label="Last"><a href=${`#/runs/${encodeURIComponent(one.run)}`}><${Ago} at=${one.last_at} now=${now} /></a></td></tr>`)}</tbody></table></div>
  <//>`;
}
