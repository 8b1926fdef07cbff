// How figures and times are written. Pure; everything takes what the admin API sends.

export const number = (value) => Number(value ?? 0);

const whole = new Intl.NumberFormat("en-US");
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

/** Dollars with as many places as tell something: $1,234, $12.34, $0.123, $0.0041. */
export function usd(value) {
  const amount = number(value);
  const size = Math.abs(amount);
  const sign = amount < 0 ? "−" : "";
  if (size === 0) return "$0";
  if (size >= 1000) return `${sign}$${whole.format(Math.round(size))}`;
  if (size >= 1) return `${sign}$${size.toFixed(2)}`;
  if (size >= 0.1) return `${sign}$${size.toFixed(3)}`;
  if (size >= 0.0001) return `${sign}$${size.toFixed(4)}`;
  return `${sign}<$0.0001`;
}

export const count = (value) => whole.format(Math.round(number(value)));
export const short = (value) => (number(value) < 10_000 ? count(value) : compact.format(number(value)));
export const percent = (ratio) => `${ratio >= 0.0995 || ratio === 0 ? Math.round(ratio * 100) : (ratio * 100).toFixed(1)} %`;

/** 340 ms, 4.2 s, 3 min 20 s, 5 h 12 min, 3 d. */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  const min = Math.floor(s / 60);
  if (min < 60) return `${min} min${s % 60 >= 1 && min < 10 ? ` ${Math.floor(s % 60)} s` : ""}`;
  const h = Math.floor(min / 60);
  if (h < 48) return `${h} h${min % 60 && h < 10 ? ` ${min % 60} min` : ""}`;
  return `${Math.floor(h / 24)} d`;
}

export function ago(iso, now = Date.now()) {
  if (!iso) return "never";
  const ms = now - Date.parse(iso);
  if (ms < 1500) return "now";
  if (ms < 0) return `in ${duration(-ms)}`;
  if (ms < 60_000) return `${Math.round(ms / 1000)} s ago`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ago`;
  if (ms < 48 * 3_600_000) return `${Math.floor(ms / 3_600_000)} h ago`;
  return `${Math.floor(ms / 86_400_000)} d ago`;
}

export const until = (iso, now = Date.now()) => (Date.parse(iso) <= now ? "now" : `in ${duration(Date.parse(iso) - now)}`);

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayAndHour = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export const time = (value) => clock.format(new Date(value));
export const moment = (value) => (value ? exact.format(new Date(value)) : "–");
export const dayTime = (value) => dayAndHour.format(new Date(value));

const WORDS = {
  running: "Running",
  completed: "Completed",
  stopped_budget: "Stopped: budget",
  stopped_steps: "Stopped: steps",
  stopped_time: "Stopped: time",
  stopped_tokens: "Stopped: tokens",
  stopped_tools: "Stopped: tool calls",
  stopped_loop: "Stopped: loop",
  killed: "Killed",
  blocked: "Blocked",
  failed: "Failed",
  abandoned: "Abandoned",
};
export const STATUSES = Object.keys(WORDS);
export const statusWord = (status) => WORDS[status] ?? words(status);
export function statusTone(status) {
  if (status === "running") return "accent";
  if (status === "completed") return "good";
  if (status === "failed" || status === "blocked" || status === "killed") return "bad";
  return String(status).startsWith("stopped") ? "warn" : "";
}

/** `loop_detected` as people say it. */
export function words(code) {
  const text = String(code ?? "").replaceAll("_", " ").replaceAll(".", " ");
  return text ? text[0].toUpperCase() + text.slice(1) : "";
}

/** A limit or an observed figure, by what it counts. */
export function figure(value, what) {
  if (value === null || value === undefined) return "–";
  if (what === "usd" || typeof value === "string") return usd(value);
  if (what === "seconds") return duration(number(value) * 1000);
  return `${count(value)}${what ? ` ${what}` : ""}`;
}

export const shortId = (id) => (String(id).length > 20 ? `${String(id).slice(0, 18)}…` : String(id));
