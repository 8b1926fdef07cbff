-- `EmbeddedStore.reseed`: no counter holds less than the ledger says. {'OK'}

for _ = 1, number() do
  local name, used, expires_at = text(), number(), number()
  local c = counter(name)
  c.used = math.max(c.used, used)
  c.expires_at = math.max(c.expires_at, expires_at > 0 and expires_at or now + UNDATED_COUNTER_MS)
  save_counter(c)
end
return {'OK'}
