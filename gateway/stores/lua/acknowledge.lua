-- `EmbeddedStore.acknowledge_kill`: when a worker obeyed first, and how many streams it cut in all. {'OK'}

local k, worker, streams = key('acks', text()), text(), number()
redis.call('HSETNX', k, 'at:' .. worker, int(now))
redis.call('HINCRBY', k, 'streams:' .. worker, int(streams))
redis.call('PEXPIRE', k, int(7 * DAY_MS))
return {'OK'}
