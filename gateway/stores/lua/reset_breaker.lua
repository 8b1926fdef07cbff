-- `EmbeddedStore.reset_breaker`. {'OK', there was one}

local name = text()
local known = load_breaker(name) ~= nil
redis.call('DEL', key('breaker', name))
redis.call('ZREM', BREAKERS_KEY, name)
return {'OK', bit(known)}
