-- `EmbeddedStore.probe`. {'OK', may pass}

local name, open_ms, probes = text(), number(), number()
local b = load_breaker(name)
if not b or b.opened_at == 0 then
  return {'OK', '1'}
end
if now < b.until_ then
  return {'OK', ''}
end
local out = {}
for _, free_at in ipairs(b.probes) do
  if free_at > now then
    out[#out + 1] = free_at
  end
end
if b.passed + #out >= probes then
  return {'OK', ''}
end
out[#out + 1] = now + open_ms
b.probes, b.probing, b.expires_at = out, true, now + BREAKER_TTL_MS
save_breaker(name, b)
return {'OK', '1'}
