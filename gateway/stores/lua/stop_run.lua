-- `EmbeddedStore.stop_run`. {'OK'}

local k, status, reason = key('run', text()), text(), text()
if redis.call('EXISTS', k) == 1 then
  redis.call('HSET', k, 'status', status, 'reason', reason)
end
return {'OK'}
