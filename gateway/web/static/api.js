// The admin API as the pages use it. The session lives in a cookie that no script can read; what changes
// something is sent with the session's CSRF token.

const BASE = "/admin/v1";
const SESSION = "/dashboard/session";
const ROLES = { viewer: 1, operator: 2, admin: 3 };

let session = null;
let onLost = () => {};

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const may = (role) => session !== null && (ROLES[session.role] ?? 0) >= ROLES[role];
export const whenLost = (callback) => { onLost = callback; };

/** The session as it stands, null without one; `oidc` tells whether a login page elsewhere is set up. */
export async function readSession() {
  const response = await call("GET", SESSION);
  const body = await json(response);
  session = response.ok ? body : null;
  return { session, oidc: Boolean(body?.oidc) };
}

export async function login(token) {
  const response = await call("POST", SESSION, { token });
  if (!response.ok) throw await failure(response);
  return readSession();
}

export async function logout() {
  const response = await call("DELETE", SESSION);
  session = null;
  if (!response.ok && response.status !== 401) throw await failure(response);
}

export const get = (path, options = {}) => request("GET", path, undefined, options);
export const post = (path, body = {}) => request("POST", path, body);
export const remove = (path) => request("DELETE", path);

async function request(method, path, body, { signal } = {}) {
  const response = await call(method, BASE + path, body, signal);
  if (response.status === 401) {
    session = null;
    onLost();
  }
  if (!response.ok) throw await failure(response);
  return json(response);
}

async function call(method, url, body, signal) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (method !== "GET" && session?.csrf) headers["x-csrf-token"] = session.csrf;
  try {
    return await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The gateway does not answer.");
  }
}

async function failure(response) {
  const body = await json(response);
  const told = body?.error ?? {};
  return new ApiError(response.status, told.code ?? "error", told.message ?? `The gateway answered ${response.status}.`);
}

async function json(response) {
  try {
    return await response.json();
  } catch {
    return null;
  }
}

/** A path with a query of the values that are not empty. */
export function query(path, values) {
  const filled = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = new URLSearchParams(filled).toString();
  return search ? `${path}?${search}` : path;
}

const KINDS = [
  "step", "run_stopped", "budget_warning", "budget_exceeded", "limit_exceeded", "loop_detected", "spend_anomaly", "kill", "revive", "topup",
  "approval_requested", "approval_decided", "breaker_open", "breaker_closed", "breaker_reset", "injection", "pii", "secret", "exfiltration", "leak",
  "moderation", "claim", "tool_drift", "policy_reload_failed", "policy_reloaded", "policy_rollout", "policy_rolled_back",
  "upstream_credentials_rejected", "finding_feedback", "alert",
];

/** Follow the events of the worker that answers. `state` is told "live" or "lost"; gives what stops it. */
export function follow(event, state) {
  const source = new EventSource(`${BASE}/events`);
  source.onopen = () => state("live");
  source.onerror = () => state("lost");
  for (const kind of KINDS) {
    source.addEventListener(kind, (message) => {
      try {
        event(kind, JSON.parse(message.data));
      } catch {
        // An event that cannot be read is one refresh late.
      }
    });
  }
  return () => source.close();
}
