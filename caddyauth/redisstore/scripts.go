package redisstore

import (
	"github.com/redis/rueidis"
)

// Each script touches one key only: in a cluster, a record and its indexes are
// on different nodes. Redis runs a script as one step. None is for Redis 7
// only, or Redis' only.

// saveScript keeps a record (compare and set) and gives the nonce and the
// indexes of the one before it; nil is a conflict.
//
//	KEYS: the record
//	ARGV: the version that must be there (0: none), now in ms, the new record,
//	      how long it lasts in ms
var saveScript = rueidis.NewLuaScript(`
local old = redis.call('GET', KEYS[1])
local version, before = '0', ''
if old then
  local v, expires, rest = string.match(old, '^1 (%d+) (%d+) ([^\n]+)\n')
  if not v then
    return redis.error_reply('ERR the record is in a format that this version does not know')
  end
  before = rest
  if tonumber(expires) > tonumber(ARGV[2]) then version = v end
end
if version ~= ARGV[1] then return false end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return before
`)

// deleteScript drops a record, and gives its nonce and indexes.
var deleteScript = rueidis.NewLuaScript(`
local old = redis.call('GET', KEYS[1])
if not old then return '' end
redis.call('DEL', KEYS[1])
return string.match(old, '^1 %d+ %d+ ([^\n]+)\n') or ''
`)

// indexScript puts a member into an index, drops those that have expired, and
// has the index last as long as its longest member. All by the clock of Redis,
// as those of its clients differ: a minute more than needed covers that one
// Redis takes over from another.
//
//	KEYS: the index
//	ARGV: the member, how long it lasts in ms
var indexScript = rueidis.NewLuaScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lasts = tonumber(ARGV[2]) + 60000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + lasts), ARGV[1])
if redis.call('PTTL', KEYS[1]) < lasts then
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', lasts))
end
return 1
`)

// renewScript has a lock last longer, and unlockScript gives it back, if it is
// still the holder's.
//
//	KEYS: the lock
//	ARGV: the holder's token, how long the lock lasts in ms
var (
	renewScript = rueidis.NewLuaScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`)
	unlockScript = rueidis.NewLuaScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
`)
)
