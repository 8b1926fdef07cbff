-- `EmbeddedStore.link`. {'OK'}

local run_id, ttl_ms = text(), number()
local links = {}
for i = 1, number() do
  links[i] = text()
end
if redis.call('EXISTS', key('run', run_id)) == 1 then
  for _, name in ipairs(links) do
    link(name, run_id, now + ttl_ms)
  end
end
return {'OK'}
