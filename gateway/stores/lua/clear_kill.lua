-- `EmbeddedStore.clear_kill`, flags set by hand included. {'OK', there was one}

local name, raw_kills = text(), flag()
local known = killed(redis.call('GET', key('kill', name))) ~= nil
redis.call('DEL', key('kill', name), key('acks', name))
if raw_kills and redis.call('DEL', 'kill:' .. name) == 1 then
  known = true
end
return {'OK', bit(known)}
