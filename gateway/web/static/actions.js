// What operators do from several pages: each asks for a reason first, and says what came of it.

import { post, remove } from "./api.js";
import { usd } from "./format.js";
import { ask, toast, touch } from "./ui.js";

const reason = { name: "reason", label: "Reason", hint: "Told to the agent and written to the audit log.", long: true };

export function killRun(id, done = () => {}) {
  ask({
    title: "Kill this run",
    intro: `Run ${id}: new steps are refused, the stream in flight is cut.`,
    fields: [{ ...reason, placeholder: "Runaway: calls the same tool again and again" }],
    action: "Kill run",
    tone: "danger",
    send: async (values) => {
      const killed = await post(`/runs/${encodeURIComponent(id)}/kill`, { reason: values.reason.trim() });
      toast(`Run killed${killed.streams ? `; ${killed.streams} ${killed.streams === 1 ? "stream was" : "streams were"} cut` : ""}.`);
      touch();
      done();
    },
  });
}

/** Stops everything, after a reason and a typed word. */
export function stopEverything() {
  ask({
    title: "Stop everything",
    intro: "Every call of every agent is refused from now on, and streams in flight are cut, until someone revives it.",
    fields: [reason],
    confirm: "STOP",
    action: "Stop everything",
    tone: "danger",
    send: async (values) => {
      const done = await post("/kills", { scope: "global", reason: values.reason.trim() });
      toast(`Everything is stopped; ${done.streams} streams were cut.`, "bad");
      touch();
    },
  });
}


export function revive(scope, id) {
  ask({
    title: "Revive",
    intro: scope === "global" ? "Calls are let through again." : `${scope} ${id} may go on.`,
    action: "Revive",
    send: async () => {
      await remove(scope === "global" ? "/kills/global" : `/kills/${encodeURIComponent(scope)}/${encodeURIComponent(id)}`);
      toast("Revived.");
      touch();
    },
  });
}

export function decide(approval, decision, done = () => {}) {
  ask({
    title: decision === "approve" ? `Approve ${approval.tool}` : `Deny ${approval.tool}`,
    intro: decision === "approve" ? "This call passes once." : "The agent is told the reason.",
    fields: [{ ...reason, hint: "Written to the audit log; of a denial it is told to the agent." }],
    action: decision === "approve" ? "Approve" : "Deny",
    tone: decision === "approve" ? "primary" : "danger",
    send: async (values) => {
      await post(`/approvals/${encodeURIComponent(approval.id)}`, { decision, reason: values.reason.trim() });
      toast(decision === "approve" ? "Approved." : "Denied.");
      touch();
      done();
    },
  });
}

/** `budgets`: [name, per, id] of those that may be raised. */
export function topUp(budgets, done = () => {}) {
  ask({
    title: "Top up a budget",
    fields: [
      { name: "which", label: "Budget", options: budgets.map(([name, per, id], i) => [String(i), per === "global" ? name : `${name}: ${per} ${id}`]), value: "0" },
      { name: "amount", label: "Amount in dollars", type: "number", placeholder: "0.50", hint: "In force within a second; a budget with a window keeps it until the window ends." },
      reason,
    ],
    action: "Top up",
    send: async (values) => {
      const [name, , id] = budgets[Number(values.which)];
      await post(`/budgets/${encodeURIComponent(name)}/topups`, { id, amount_usd: String(values.amount), reason: values.reason.trim() });
      toast(`${usd(values.amount)} added to ${name}.`);
      touch();
      done();
    },
  });
}

export function resetBreaker(breaker) {
  ask({
    title: "Close this breaker",
    intro: `${breaker.kind} ${breaker.name}: calls pass again, and failures are counted anew.`,
    action: "Close it",
    send: async () => {
      await post(`/breakers/${breaker.id.split("/").map(encodeURIComponent).join("/")}/reset`);
      toast("Closed.");
      touch();
    },
  });
}
