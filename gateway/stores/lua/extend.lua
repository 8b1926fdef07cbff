-- `EmbeddedStore.extend`: add to an open reservation. {'OK', done}

local attempt_id, amount = text(), number()
local attempt_key = key('attempt', attempt_id)
local row = redis.call('HMGET', attempt_key, 'state', 'reserved', 'holds', 'takes', 'run')
if row[1] ~= 'open' then
  return {'OK', ''}
end
for _, limit in ipairs(cmsgpack.unpack(row[4]).limits) do
  local c = counter(limit[1])
  -- A difference is exact where the sum may pass 2^53.
  if amount > limit[2] - c.used - c.reserved then
    return {'OK', ''}
  end
end
redis.call('HSET', attempt_key, 'reserved', int(tonumber(row[2]) + amount))
for _, hold in ipairs(cmsgpack.unpack(row[3])) do
  local c = counter(hold[1])
  c.reserved = c.reserved + amount
  c.expires_at = math.max(c.expires_at, hold[2])
  save_counter(c)
end
local run_key = key('run', row[5])
local reserved = tonumber(redis.call('HGET', run_key, 'reserved'))
if reserved then
  redis.call('HSET', run_key, 'reserved', int(reserved + amount))
end
return {'OK', '1'}
