// What the detectors find, what is done about it, and what people say of it.

import { may, post, query } from "../api.js";
import { colour, Key, Stacked } from "../chart.js";
import { count, dayTime, percent, short, shortId, words } from "../format.js";
import { ask, Empty, Failed, Field, html, Loaded, Panel, Pill, RunLink, Segments, toast, useData, useMemo, usePages, useState } from "../ui.js";

const SPANS = [["1h", "1 h"], ["24h", "24 h"], ["7d", "7 d"], ["30d", "30 d"]];
const BY = [["detector", "Detector"], ["channel", "Channel"], ["mode", "Mode"]];

export function Guards() {
  const [since, setSince] = useState("7d");
  const [by, setBy] = useState("detector");
  const summary = useData(query("/findings/summary", { since }), { every: 15000, live: true });
  return html`
    <div class="top"><h1>Guards</h1><div class="actions"><${Segments} label="Split by" value=${by} options=${BY} onChange=${setBy} /><${Segments} label="Time" value=${since} options=${SPANS} onChange=${setSince} /></div></div>
    <${Loaded} state=${summary}>${(data) => html`<${Overall} data=${data} by=${by} />`}<//>
    <${List} since=${since} summary=${summary.data} />`;
}

function Overall({ data, by }) {
  const split = useMemo(() => {
    const groups = new Map();
    for (const one of data.series) {
      const old = groups.get(one[by]) ?? { label: one[by], values: new Array(data.at.length).fill(0) };
      one.points.forEach((value, i) => { old.values[i] += value; });
      groups.set(one[by], old);
    }
    return [...groups.values()].map((one, i) => ({ ...one, colour: colour(i) }));
  }, [data, by]);
  const rules = useMemo(() => {
    const found = new Map();
    for (const one of data.series) {
      const key = `${one.detector}/${one.channel}`;
      const row = found.get(key) ?? { detector: one.detector, channel: one.channel, enforce: 0, shadow: 0, actions: {} };
      row[one.mode === "shadow" ? "shadow" : "enforce"] += one.count;
      row.actions[one.action] = (row.actions[one.action] ?? 0) + one.count;
      found.set(key, row);
    }
    return [...found.values()].sort((a, b) => b.enforce + b.shadow - a.enforce - a.shadow);
  }, [data]);
  const all = rules.reduce((sum, one) => sum + one.enforce + one.shadow, 0);
  const shadow = rules.reduce((sum, one) => sum + one.shadow, 0);
  if (all === 0) return html`<${Panel} title="Findings" id="findings-over-time"><${Empty} title="Nothing was found in this time" icon="guards">Detectors are switched on in the policy under <code>screening</code>; begin with <code>mode: shadow</code>.<//><//>`;
  return html`<div class="grid main-side">
    <${Panel} title="Findings over time" id="findings-over-time" aside=${html`<span class="num">${count(all)} in all, ${percent(shadow / all)} in shadow</span>`}>
      <div class="body stack tight"><${Stacked} at=${data.at} series=${split} format=${short} label="Findings over time" height=${230} /><${Key} series=${split} /></div>
    <//>
    <${Panel} title="Shadow versus enforced" id="modes">
      <div class="scroll"><table><thead><tr><th scope="col">Detector</th><th scope="col" class="r">Enforced</th><th scope="col" class="r">Shadow</th><th scope="col">Action</th></tr></thead>
      <tbody>${rules.map((one) => html`<tr><th scope="row"><span class="strong">${one.detector}</span><span class="sub">${one.channel}</span></th><td class="r">${one.enforce ? count(one.enforce) : html`<span class="dim">–</span>`}</td><td class="r">${one.shadow ? count(one.shadow) : html`<span class="dim">–</span>`}</td><td><span class="tags">${Object.keys(one.actions).map((action) => html`<${Pill}>${action}<//>`)}</span></td></tr>`)}</tbody></table></div>
    <//>
  </div>`;
}

function List({ since, summary }) {
  const [filter, setFilter] = useState({ detector: "", channel: "", mode: "" });
  const list = usePages(query("/findings", { ...filter, since, limit: 50 }), { every: 15000 });
  const choices = (name) => [...new Set((summary?.series ?? []).map((one) => one[name]))].sort();
  const pick = (name, label) => html`<${Field} label=${label}><select value=${filter[name]} onChange=${(event) => setFilter({ ...filter, [name]: event.target.value })}><option value="">any</option>${choices(name).map((each) => html`<option value=${each}>${each}</option>`)}</select><//>`;
  return html`<${Panel} title="Findings" id="findings">
    <div class="body"><div class="filters">${pick("detector", "Detector")}${pick("channel", "Channel")}${pick("mode", "Mode")}</div></div>
    ${list.error && html`<div class="body"><${Failed} error=${list.error} retry=${list.reload} /></div>`}
    ${list.rows?.length === 0 && html`<${Empty} title="Nothing matches" icon="guards">What was found is never shown: only its kind, and where.<//>`}
    ${list.rows?.length > 0 && html`<div class="scroll"><table class="cards">
      <thead><tr><th scope="col">Found</th><th scope="col">Where</th><th scope="col">Done</th><th scope="col">Run</th><th scope="col">Whose</th><th scope="col" class="r">When</th><th scope="col"><span class="hidden-text">Feedback</span></th></tr></thead>
      <tbody>${list.rows.map((one, i) => html`<tr data-row key=${`${one.step}/${i}`}>
        <th scope="row"><span class="strong">${one.type || one.detector}</span>${one.count > 1 && html` <span class="dim num">×${one.count}</span>`}<span class="sub">${one.detector}</span></th>
        <td data-label="Where">${one.channel}${one.tool && html`<span class="sub">${one.tool}</span>`}</td>
        <td data-label="Done"><${Pill} tone=${one.mode === "shadow" ? "" : "warn"}>${one.mode === "shadow" ? `would ${one.action}` : one.action}<//></td>
        <td data-label="Run"><${RunLink} id=${one.run}>${shortId(one.run)}<//><span class="sub">step ${one.ordinal}</span></td>
        <td data-label="Whose">${one.user ?? one.key}<span class="sub">${one.agent}</span></td>
        <td class="r dim" data-label="When">${dayTime(one.at)}</td>
        <td class="act whole">${one.feedback ? html`<${Pill} tone=${one.feedback.verdict === "false_positive" ? "bad" : "good"} title=${`${one.feedback.by}: ${one.feedback.reason}`}>${words(one.feedback.verdict)}<//>${may("admin") && one.feedback.verdict === "false_positive" && html` <button class="button tiny" onClick=${() => makeException(one)}>Except…</button>`}` : may("operator") && html`<button class="button tiny" onClick=${() => sayFalse(one, list.reload)}>False positive</button>`}</td>
      </tr>`)}</tbody></table></div>
      ${list.more && html`<div class="body"><button class="button" onClick=${list.more}>Show more</button></div>`}`}
  <//>`;
}

function sayFalse(finding, done) {
  ask({
    title: "A false positive?",
    intro: `${finding.detector} found ${finding.type || "something"} in what came from ${finding.channel}${finding.tool ? ` (${finding.tool})` : ""}, run ${shortId(finding.run)}, step ${finding.ordinal}. This goes on record with the rule, so that the policy can make an exception.`,
    fields: [{ name: "reason", label: "Why it is wrong", long: true, placeholder: "Our own order numbers look like telephone numbers" }],
    action: "Report",
    send: async (values) => {
      await post("/findings/feedback", { run: finding.run, step: finding.step, detector: finding.detector, channel: finding.channel || undefined, type: finding.type || undefined, verdict: "false_positive", reason: values.reason.trim() });
      toast("Noted as a false positive.");
      done();
    },
  });
}

function makeException(finding) {
  const scopes = [["kind", `${finding.type} in ${finding.channel}${finding.tool ? ` (${finding.tool})` : ""}`], ...(finding.tool ? [["tool", `everything that ${finding.tool} returns`]] : []), ["type", `${finding.type} everywhere`]];
  ask({
    title: "Make an exception",
    intro: `From now on such findings of ${finding.detector} are recorded and not acted on. The policy gets a new version.`,
    fields: [
      { name: "name", label: "Name of the exception", value: [finding.detector, finding.type, finding.tool ?? finding.channel].join("-").toLowerCase().replace(/[^a-z0-9-]+/g, "-") },
      { name: "scope", label: "For", options: scopes, value: "kind" },
      { name: "note", label: "Note", long: true, value: finding.feedback.reason },
    ],
    action: "Make exception",
    send: async (values) => {
      const wanted = { kind: { channel: finding.channel, type: finding.type, ...(finding.tool ? { tool: finding.tool } : {}) }, tool: { tool: finding.tool }, type: { type: finding.type } }[values.scope];
      const made = await post("/policy/exceptions", { name: values.name.trim(), detector: finding.detector, ...wanted, note: values.note.trim() });
      toast(`Version ${made.version} governs, with the exception.`);
    },
  });
}
