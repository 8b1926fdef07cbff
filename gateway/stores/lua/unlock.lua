-- Give up a rebuild that failed, so that another worker can try at once. {'OK'}

local lock_key, token = TAG .. 'rebuild', text()
if redis.call('GET', lock_key) == token then
  redis.call('DEL', lock_key)
end
return {'OK'}
