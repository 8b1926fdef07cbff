// One run: how it stands and why, and what it did step by step.

import { decide, killRun, topUp } from "../actions.js";
import { get, may, post } from "../api.js";
import { count, duration, figure, moment, number, percent, short, shortId, statusTone, statusWord, usd, words } from "../format.js";
import { Ago, Empty, Failed, html, Icon, Loaded, openDialog, Panel, Pill, RunLink, Status, toast, useData, useNow, usePages } from "../ui.js";
import { pretty } from "./approvals.js";

export function Run({ id }) {
  const path = `/runs/${encodeURIComponent(id)}`;
  const run = useData(path, { every: 3000, live: true });
  return html`
    <nav class="crumb" aria-label="Where this is"><a href="#/runs">Runs</a><span aria-hidden="true">/</span><span class="mono cut">${id}</span></nav>
    ${run.error?.status === 404
      ? html`<h1>Run</h1><${Panel} title="Unknown" id="unknown"><${Empty} title="There is no such run">It may not have had its first step yet.<//><//>`
      : html`<${Loaded} state=${run}>${(data) => html`<${Story} run=${data} reload=${run.reload} />`}<//>`}`;
}

function Story({ run, reload }) {
  const now = useNow();
  const steps = usePages(`/runs/${encodeURIComponent(run.id)}/steps?limit=200`, { every: run.status === "running" ? 3000 : 15000 });
  const budgets = useData(`/budgets?per=run&id=${encodeURIComponent(run.id)}`, { every: 5000, live: true });
  const waiting = useData(run.status === "running" ? "/approvals?state=pending&limit=200" : null, { every: 3000, live: true });
  const kills = useData(run.status === "killed" ? "/kills?all=true&limit=200" : null);
  const mine = (waiting.data?.data ?? []).filter((each) => each.run === run.id);
  const again = () => { reload(); steps.reload(); };
  const ended = run.status !== "running";
  const accounts = (budgets.data?.data ?? []).map((each) => [each.name, each.per, each.id]);
  return html`
    <div class="top">
      <h1>${run.name ?? run.agent ?? run.id}</h1><${Status} status=${run.status} />
      <div class="actions">
        ${may("operator") && html`<button class="button" onClick=${() => replay(run.id)}>Replay</button>`}
        ${may("operator") && accounts.length > 0 && html`<button class="button" onClick=${() => topUp(accounts, again)}>Top up</button>`}
        ${may("operator") && run.status !== "killed" && html`<button class="button danger" onClick=${() => killRun(run.id, again)}><${Icon} name="stop" size=${15} /> Kill</button>`}
      </div>
    </div>
    <${Why} run=${run} steps=${steps.rows ?? []} kill=${(kills.data?.data ?? []).find((each) => each.scope === "run" && [run.id, run.name].includes(each.id))} budgets=${budgets.data?.data ?? []} now=${now} />
    ${mine.map((one) => html`<div class="notice" key=${one.id}><${Icon} name="approvals" /><div class="fill"><strong>${one.tool}</strong> waits for approval: <span class="mono">${one.arguments}</span></div>
      ${may("operator") && html`<button class="button tiny primary" onClick=${() => decide(one, "approve", again)}>Approve</button><button class="button tiny danger" onClick=${() => decide(one, "deny", again)}>Deny</button>`}</div>`)}
    <dl class="stats even" aria-label="Totals">
      <div class="stat"><dt>Cost</dt><dd title=${run.cost_usd}>${usd(run.cost_usd)}</dd><dd class="more">${number(run.reserved_usd) > 0 ? `${usd(run.reserved_usd)} reserved` : `${usd(number(run.cost_usd) / Math.max(1, run.steps))} a step`}</dd></div>
      <div class="stat"><dt>Saved</dt><dd>${usd(run.saved_usd)}</dd><dd class="more">by routing and caches</dd></div>
      <div class="stat"><dt>Steps</dt><dd>${count(run.steps)}</dd><dd class="more">${run.refusals ? `${count(run.refusals)} refused` : usual(run, "steps")}</dd></div>
      <div class="stat"><dt>Tool calls</dt><dd>${count(run.tool_calls)}</dd><dd class="more">${count(Object.values(run.tools).reduce((sum, each) => sum + each.errors, 0))} failed</dd></div>
      <div class="stat"><dt>Tokens in</dt><dd>${short(run.input_tokens)}</dd><dd class="more">${run.input_tokens ? percent(run.cached_tokens / run.input_tokens) : "0 %"} cached</dd></div>
      <div class="stat"><dt>Tokens out</dt><dd>${short(run.output_tokens)}</dd><dd class="more">${Object.keys(run.model_mix).length} ${Object.keys(run.model_mix).length === 1 ? "model" : "models"}</dd></div>
      <div class="stat"><dt>${ended ? "Lasted" : "Running for"}</dt><dd>${duration((ended ? Date.parse(run.last_step_at ?? run.started_at) : now) - Date.parse(run.started_at))}</dd><dd class="more">since ${moment(run.started_at)}</dd></div>
    </dl>
    <p class="facts">${[["Run", run.id], ["User", run.end_user ?? run.user], ["Team", run.team], ["Key", run.key], ["Agent", run.agent], ["Session", run.session], ["Surface", run.surface], ["Known by", run.source], ["Policy", run.policy], ...Object.entries(run.tags).filter(([name, value]) => name !== "agent" || value !== run.agent)].filter(([, value]) => value).map(([name, value]) => html`<span>${name} <b class=${name === "Run" || name === "Policy" ? "mono" : ""}>${value}</b></span>`)}
      ${run.parent && html`<span>Child of <${RunLink} id=${run.parent} /></span>`}${run.continues && html`<span>Continues <${RunLink} id=${run.continues} /></span>`}${run.children.length > 0 && html`<span>Children ${run.children.slice(0, 8).map((child) => html`<${RunLink} id=${child} /> `)}</span>`}</p>
    <${Panel} title="Timeline" id="timeline" aside=${steps.rows && `${count(steps.rows.length)}${steps.more ? "+" : ""} steps`}>
      ${steps.error && html`<div class="body"><${Failed} error=${steps.error} retry=${steps.reload} /></div>`}
      ${steps.rows === null ? html`<div class="body"><div class="skeleton"></div></div>` : steps.rows.length === 0 ? html`<${Empty} title="No step yet" />` : html`<${Waterfall} run=${run.id} steps=${steps.rows} />`}
      ${steps.more && html`<div class="body"><button class="button" onClick=${steps.more}>Show more steps</button></div>`}
    <//>
    ${Object.keys(run.tools).length > 0 && html`<${Tools} tools=${run.tools} />`}`;
}

function usual(run, name) {
  const mean = run.usual?.mean?.[name];
  return mean ? `usually ${count(mean)}` : "";
}

// -- why -------------------------------------------------------------------------------------------

const ENDS = {
  completed: "The model answered without calling another tool, which ends a run.",
  abandoned: "No step came within the idle time, so the run counts as over.",
  running: null,
};

/** The decision that ended a run: rule, limit, what was observed. */
function verdict(steps) {
  for (const step of [...steps].reverse()) {
    for (const decision of [...step.decisions].reverse()) {
      if (decision.code && decision.mode !== "shadow") return { ...decision, ordinal: step.ordinal };
    }
  }
  return null;
}

const MONEY = /_budget_exceeded$/;
const COUNTS = { step_limit_exceeded: "steps", tool_limit_exceeded: "tool calls", token_limit_exceeded: "tokens", loop_detected: "times" };

function limitText(decision, value) {
  if (value === null || value === undefined) return null;
  if (MONEY.test(decision.code)) return usd(typeof value === "string" ? value : value / 1e9);
  if (decision.code === "run_timeout") return duration(number(value));
  return figure(number(value), COUNTS[decision.code] ?? "");
}

function Why({ run, steps, kill, budgets, now }) {
  const tone = statusTone(run.status);
  if (run.status === "running") {
    const nearest = budgets.map((each) => ({ ...each, ratio: (number(each.used_usd) + number(each.reserved_usd)) / number(each.limit_usd) })).sort((a, b) => b.ratio - a.ratio)[0];
    if (!nearest) return null;
    return html`<div class="why"><span class="dim"><${Icon} name="info" /></span><p>Still running: ${percent(nearest.ratio)} of budget <b>${nearest.name}</b> is used, ${usd(nearest.remaining_usd)} is left.</p></div>`;
  }
  const decision = run.status === "killed" || run.status === "completed" ? null : verdict(steps);
  const text = run.status === "killed"
    ? html`Killed${kill && html` by <b>${kill.by}</b>, <${Ago} at=${kill.at} now=${now} />`}: ${run.status_reason ?? "no reason given"}`
    : decision
      ? html`${words(decision.code)}: ${sentence(decision)}${decision.decision === "wrap_up" ? " It was given one last step to answer in." : ""}`
      : ENDS[run.status] ?? html`${statusWord(run.status)}${run.status_reason ? `: ${words(run.status_reason).toLowerCase()}` : ""}.`;
  const limit = decision && limitText(decision, decision.limit);
  const used = decision && limitText(decision, decision.used);
  return html`<div class=${`why ${tone === "good" ? "" : tone}`} id="why"><span class=${`${tone}-text`}><${Icon} name=${tone === "good" ? "good" : tone === "bad" ? "bad" : "stop"} /></span>
    <p class="strong">${text}</p>
    ${decision && html`<dl><div><dt>Rule</dt><dd class="mono">${decision.rule}</dd></div>${limit && html`<div><dt>Limit</dt><dd>${limit}</dd></div>`}${used && html`<div><dt>Observed</dt><dd>${used}</dd></div>`}<div><dt>At step</dt><dd>${decision.ordinal}</dd></div><div><dt>What was done</dt><dd>${words(decision.decision ?? decision.action)}</dd></div></dl>`}
    ${run.status === "killed" && kill && html`<dl><div><dt>Streams cut</dt><dd>${kill.streams}</dd></div>${kill.workers.map((worker) => html`<div><dt>${worker.worker}</dt><dd>obeyed after ${Math.max(0, Date.parse(worker.obeyed_at) - Date.parse(kill.at))} ms</dd></div>`)}</dl>`}
  </div>`;
}

function sentence(decision) {
  if (MONEY.test(decision.code)) return `the next step would not have fitted into budget “${decision.rule}”.`;
  if (decision.code === "loop_detected") return "the agent went in circles without getting anywhere.";
  if (decision.code === "step_limit_exceeded") return "the run had all the model calls that it may make.";
  if (decision.code === "run_timeout") return "the run had taken as long as it may.";
  return decision.why ? `${decision.why}.` : `rule “${decision.rule}” said no.`;
}

// -- timeline --------------------------------------------------------------------------------------

function Waterfall({ run, steps }) {
  const begin = Math.min(...steps.map((step) => Date.parse(step.started_at)));
  const end = Math.max(...steps.map((step) => Math.max(Date.parse(step.ended_at), Date.parse(step.started_at) + number(step.latency_ms))), begin + 1);
  const span = end - begin;
  return html`<div class="waterfall">
    <div class="scale" aria-hidden="true"><span>#</span><span>Step</span><span class="ticks">${[0, 0.25, 0.5, 0.75, 1].map((part) => html`<span>${duration(span * part)}</span>`)}</span><span class="when nowrap">Latency</span><span style=${{ textAlign: "right" }}>Cost</span></div>
    ${steps.map((step) => html`<${Step} key=${step.id} run=${run} step=${step} begin=${begin} span=${span} />`)}
  </div>`;
}

const SHOWN = { refuse: "bad", wrap_up: "warn", reroute: "accent", withhold: "warn", nudge: "warn", flag: "warn" };

function Step({ run, step, begin, span }) {
  const refused = step.kind === "refusal";
  const at = Date.parse(step.started_at) - begin;
  const latency = number(step.latency_ms ?? Date.parse(step.ended_at) - Date.parse(step.started_at));
  const ttft = Math.min(latency, number(step.ttft_ms));
  const part = (ms) => `${Math.max(0, (ms / span) * 100)}%`;
  const failedResults = step.tool_results.filter((result) => result.ok === false);
  const bad = step.error && !refused;
  const rerouted = !refused && step.model && step.requested_model && step.model !== step.requested_model;
  return html`<details class="step" data-row>
    <summary>
      <span class="dim num">${step.ordinal}</span>
      <span class="what"><span class="cut">${refused
        ? html`<span class=${step.decisions.at(-1)?.action === "refuse" ? "bad-text strong" : "warn-text strong"}>${words(step.decisions.at(-1)?.code ?? "refused")}</span>`
        : html`<span class="strong">${step.model}</span>${rerouted && html` <span class="dim">for ${step.requested_model}</span>`} ${bad && html`<span class="bad-text">${words(step.error)}</span>`}`}</span>
        <span class="tags">
          ${step.tool_calls.map((call) => html`<${Pill} tone=${call.delivered === false ? "warn" : "line"} title=${call.delivered === false ? "withheld from the agent" : "tool call"}>${call.name}<//>`)}
          ${failedResults.map((result) => html`<${Pill} tone="bad" title="failed tool result">${result.name ?? "tool"}: ${result.error_type ?? "failed"}<//>`)}
          ${step.decisions.filter((each) => !(refused && each.action === "refuse")).map((each) => html`<${Pill} tone=${each.mode === "shadow" ? "" : SHOWN[each.decision ?? each.action] ?? ""} title=${each.why}>${each.rule}${each.mode === "shadow" ? " (shadow)" : ""}<//>`)}
          ${step.findings.map((each) => html`<${Pill} tone=${each.mode === "shadow" ? "" : "warn"} title=${`${each.channel}: ${each.action}`}>${each.type ?? each.kind ?? each.detector}${each.count > 1 ? ` ×${each.count}` : ""}<//>`)}
        </span></span>
      <span class="track" title=${`${duration(latency)}, first token after ${duration(step.ttft_ms)}`}>
        ${refused ? html`<i class="refused" style=${{ left: `min(${part(at)}, calc(100% - 10px))` }}></i>` : html`<i class=${bad ? "bad" : ""} style=${{ left: part(at), width: part(latency) }}></i>${ttft > 0 && html`<i class="wait" style=${{ left: part(at), width: part(ttft), background: "color-mix(in srgb, var(--accent) 45%, var(--panel))" }}></i>`}`}
      </span>
      <span class="when num dim nowrap">${refused ? "–" : duration(latency)}</span>
      <span class="num" style=${{ textAlign: "right" }}>${refused ? "–" : usd(step.cost_usd)}</span>
    </summary>
    <${Inside} run=${run} step=${step} refused=${refused} />
  </details>`;
}

function Inside({ run, step, refused }) {
  const usage = Object.entries(step.usage.buckets ?? {});
  return html`<div class="inside">
    <dl class="kv">
      <div><dt>Began</dt><dd>${moment(step.started_at)}</dd></div>
      ${!refused && html`
        <div><dt>Provider</dt><dd>${step.provider}</dd></div>
        <div><dt>Asked for</dt><dd>${step.requested_model}</dd></div>
        <div><dt>First token</dt><dd>${duration(step.ttft_ms)}</dd></div>
        <div><dt>Gateway’s own time</dt><dd>${duration(step.overhead_ms)}</dd></div>
        <div><dt>Cost</dt><dd>$${step.cost_usd} <span class="dim">${step.cost_source}</span></dd></div>
        ${number(step.saved_usd) > 0 && html`<div><dt>Saved</dt><dd class="good-text">${usd(step.saved_usd)}</dd></div>`}
        <div><dt>Tokens in / out</dt><dd>${count(step.usage.input_tokens)} / ${count(step.usage.output_tokens)}</dd></div>
        ${usage.map(([name, value]) => html`<div><dt>${words(name)}</dt><dd>${count(value)}</dd></div>`)}
        <div><dt>Ended</dt><dd>${words(step.finish_reason ?? step.outcome)}${step.http_status ? html` <span class="dim">HTTP ${step.http_status}</span>` : ""}</dd></div>`}
      <div><dt>Verdict</dt><dd>${words(step.verdict)}</dd></div>
      ${step.policy && html`<div><dt>Policy</dt><dd class="mono">${step.policy}</dd></div>`}
    </dl>
    ${may("operator") && html`<div><button class="button tiny" onClick=${() => showContent(run, step.ordinal)}>What it held</button> <span class="dim small">is on record in the audit log when you look</span></div>`}
    ${step.decisions.length > 0 && html`<div><h3>Decisions</h3><ul class="lines">${step.decisions.map((each) => html`<li><span class="mono strong">${each.rule}</span><${Pill} tone=${each.mode === "shadow" ? "" : SHOWN[each.decision ?? each.action] ?? ""}>${words(each.decision ?? each.action)}${each.mode === "shadow" ? ", shadow" : ""}<//><span class="soft">${about(each)}</span></li>`)}</ul></div>`}
    ${step.tool_calls.length > 0 && html`<div><h3>Tool calls</h3><ul class="lines">${step.tool_calls.map((call) => html`<li><span class="strong">${call.name}</span><span class="mono dim">${call.id}</span>${call.delivered === false && html`<${Pill} tone="warn">withheld<//>`}</li>`)}</ul></div>`}
    ${step.tool_results.length > 0 && html`<div><h3>Tool results that came with it</h3><ul class="lines">${step.tool_results.map((result) => html`<li><span class=${result.ok === false ? "bad-text" : "good-text"}><${Icon} name=${result.ok === false ? "bad" : "good"} size=${13} /></span><span class="strong">${result.name ?? ""}</span><span class="mono dim">${result.call_id}</span>${result.ok === false && html`<${Pill} tone="bad">${result.error_type ?? "failed"}<//>`}</li>`)}</ul></div>`}
    ${step.findings.length > 0 && html`<div><h3>Findings</h3><ul class="lines">${step.findings.map((each) => html`<li><span class="strong">${each.type ?? each.kind}</span><span class="dim">${each.detector}, ${each.channel}${each.tool ? ` (${each.tool})` : ""}${each.count > 1 ? `, ×${each.count}` : ""}</span><${Pill} tone=${each.mode === "shadow" ? "" : "warn"}>${each.action}${each.mode === "shadow" ? ", shadow" : ""}<//></li>`)}</ul></div>`}
  </div>`;
}

function about(decision) {
  const parts = [];
  if (decision.why) parts.push(String(decision.why));
  if (decision.to) parts.push(`${decision.from ? `${decision.from} → ` : "to "}${decision.to}`);
  const [limit, used] = [decision.code && limitText(decision, decision.limit), decision.code && limitText(decision, decision.used)];
  if (limit) parts.push(`limit ${limit}${used ? `, observed ${used}` : ""}`);
  return parts.join("; ");
}

function Tools({ tools }) {
  const rows = Object.entries(tools).sort((a, b) => b[1].calls - a[1].calls);
  return html`<${Panel} title="Tools" id="tools"><div class="scroll"><table><thead><tr><th scope="col">Tool</th><th scope="col" class="r">Calls</th><th scope="col" class="r">Failed</th></tr></thead>
    <tbody>${rows.map(([name, each]) => html`<tr><th scope="row" class="strong">${name}</th><td class="r">${count(each.calls)}</td><td class=${`r ${each.errors ? "bad-text" : "dim"}`}>${count(each.errors)}</td></tr>`)}</tbody></table></div><//>`;
}

async function showContent(run, ordinal) {
  let held;
  try {
    held = await get(`/runs/${encodeURIComponent(run)}/steps/${ordinal}/content`);
  } catch (error) {
    toast(error.message, "warn");
    return;
  }
  const kept = held.requests.filter((each) => each.kept || each.answers.length > 0);
  openDialog((close) => html`<form onSubmit=${(event) => event.preventDefault()}>
    <h2 id="dialog-title">What step ${ordinal} held</h2>
    ${kept.length === 0 && html`<p class="soft">Nothing was kept: the policy decides whether requests and answers are recorded.</p>`}
    ${kept.map((each) => html`<h3>Request, ${moment(each.at)}</h3>${each.problem ? html`<p class="bad-text">${each.problem}</p>` : html`<pre class="code" tabindex="0">${pretty(each.body ?? "not kept")}</pre>`}
      ${each.answers.map((answer) => html`<h3>Answer of ${answer.model}</h3><pre class="code" tabindex="0">${answer.problem ?? [...answer.texts, ...answer.calls.map((call) => `${call.name}(${call.arguments})`)].join("\n\n")}</pre>`)}`)}
    <div class="buttons"><button type="button" class="button" onClick=${close}>Close</button></div>
  </form>`, { wide: true });
}

// -- replay ----------------------------------------------------------------------------------------

async function replay(id) {
  let result;
  try {
    result = await post(`/runs/${encodeURIComponent(id)}/replay`);
  } catch (error) {
    const gone = error.status === 404 || error.status === 501;
    toast(gone ? `This run cannot be replayed: ${error.message}` : error.message, gone ? "warn" : "bad");
    return;
  }
  const changed = result.changed ?? [];
  const known = changed.filter((each) => each.now !== "unknown").length;
  openDialog((close) => html`<form onSubmit=${(event) => event.preventDefault()}>
    <h2 id="dialog-title">Replay under the policy in force</h2>
    <p class="soft">${known === 0 ? "No decision is known to come out differently" : `${count(known)} decisions come out differently`}${changed.length > known ? `; ${count(changed.length - known)} cannot be told, because the content was not kept` : ""}.</p>
    ${changed.length > 0 && html`<div class="scroll tall"><${Changes} changed=${changed} /></div>`}
    <div class="buttons"><button type="button" class="button" onClick=${close}>Close</button></div>
  </form>`, { wide: true });
}

const plain = (value) => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));

const outcome = (word, code) => html`${words(plain(word))}${code && html`<span class="sub">${words(code)}</span>`}`;

/** What another policy decides differently; what is known stands before what cannot be told. */
export function Changes({ changed }) {
  const rows = [...changed].sort((a, b) => (a.now === "unknown") - (b.now === "unknown"));
  return html`<table><thead><tr><th scope="col">Step</th><th scope="col">Rule</th><th scope="col">Was</th><th scope="col">Now</th></tr></thead>
  <tbody>${rows.slice(0, 300).map((each) => html`<tr class=${each.now === "unknown" ? "dim" : ""}><td class="nowrap">${each.run && html`<a class="mono" href=${`#/runs/${encodeURIComponent(each.run)}`}>${shortId(each.run)}</a> `}<span class="num">${plain(each.step)}</span></td><td class="mono">${plain(each.rule)}</td><td>${outcome(each.was, each.was_code)}</td><td class=${each.now === "unknown" ? "" : "strong"}>${outcome(each.now, each.code)}</td></tr>`)}</tbody></table>`;
}
