-- `EmbeddedStore.settle`. {'OK', known, applied, run cost, run remaining or '', status}

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

local known, applied, run = settle(s, function()
  redis.call('XADD', EVENTS_KEY, '*', 'e', event)
end)
if not run then
  return {'OK', bit(known), bit(applied), '0', '', 'running'}
end
local remaining = ''
if run.budget ~= '' then
  local c = counter(run.budget)
  if is_live(c) then
    remaining = int(run.budget_limit - c.used - c.reserved)
  end
end
return {'OK', bit(known), bit(applied), int(run.cost), remaining, run.status}
