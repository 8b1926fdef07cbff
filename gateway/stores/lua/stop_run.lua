-- `EmbeddedStore.stop_run`. {'OK'}

local k, status, reason, ending = key('run', text()), text(), text(), text()
local row = redis.call('HMGET', k, 'steps', 'landed')
if row[1] then
  redis.call('HSET', k, 'status', status, 'reason', reason)
  if ending ~= '' and not row[2] then
    redis.call('HSET', k, 'landed', int(tonumber(row[1]) + 1), 'ending', ending)
  end
end
return {'OK'}
