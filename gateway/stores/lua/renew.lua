-- `EmbeddedStore.renew`: new leases for those attempts that are still open. {'OK'}

for _ = 1, number() do
  local attempt_id = text()
  local k = key('attempt', attempt_id)
  local row = redis.call('HMGET', k, 'state', 'lease_ms')
  if row[1] == 'open' then
    redis.call('ZADD', LEASES_KEY, int(now + tonumber(row[2])), attempt_id)
    redis.call('PEXPIRE', k, int(tonumber(row[2]) + 2 * DAY_MS))
  end
end
return {'OK'}
