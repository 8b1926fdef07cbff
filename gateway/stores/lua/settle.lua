-- `EmbeddedStore.settle`. {'OK', known, applied, run cost, run remaining or '', status, id of its event or ''}

local s = {
  attempt_id = text(), run_id = text(), cost = number(), tokens = number(), provisional = flag(),
  succeeded = flag(), completes = flag(), tool_calls = number(), head = text(), retry_key = text(),
  index_ttl_ms = number(), adopt = flag(), ends_as = text(), ends_because = text(), progress = text(),
  waited_ms = number(), links = {}, holds = {},
}
local event = text()
for i = 1, number() do
  s.links[i] = text()
end
for i = 1, number() do
  s.holds[i] = {text(), number()}
end

local event_id = ''
local known, applied, run = settle(s, function()
  event_id = redis.call('XADD', EVENTS_KEY, '*', 'e', event)
end)
if known and not applied then
  -- Its event was written before; no older than this is all that is known of it.
  local time = redis.call('TIME')
  event_id = time[1] .. string.format('%03.0f', math.floor(tonumber(time[2]) / 1000)) .. '-999999999'
end
if not run then
  return {'OK', bit(known), bit(applied), '0', '', 'running', event_id}
end
local remaining = ''
if run.budget ~= '' then
  local c = counter(run.budget)
  if is_live(c) then
    remaining = int(run.budget_limit - c.used - c.reserved)
  end
end
return {'OK', bit(known), bit(applied), int(run.cost), remaining, run.status, event_id}
