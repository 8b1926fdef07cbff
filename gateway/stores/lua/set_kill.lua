-- `EmbeddedStore.set_kill`: set the flag, and tell every worker in the same step. {'OK'}

local name, reason, ttl_ms, channel, message = text(), text(), number(), text(), text()
local k = key('kill', name)
if ttl_ms >= 0 then
  redis.call('SET', k, int(now + ttl_ms) .. ':' .. reason, 'PX', int(ttl_ms + MINUTE_MS))
else
  redis.call('SET', k, '0:' .. reason)
end
redis.call('PUBLISH', channel, message)
return {'OK'}
