-- The rebuild is done: open the database, if the lock is still ours. {'OK', done}

local lock_key, token, epoch = TAG .. 'rebuild', text(), text()
if redis.call('GET', lock_key) ~= token then
  return {'OK', ''}
end
redis.call('SET', EPOCH_KEY, epoch)
redis.call('DEL', lock_key)
return {'OK', '1'}
