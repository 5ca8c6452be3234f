package redis

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/redisstore"
)

// watched is a master with a replica, and three Sentinels that watch them, with
// a password of their own.
func watched(t *testing.T) (servers map[string]*server, replicas [2]redisstore.Sessions) {
	t.Helper()
	const password, sentinelPassword = "of the servers", "of the Sentinels"
	t.Setenv("REDIS_PASSWORD", password)
	t.Setenv("SENTINEL_PASSWORD", sentinelPassword)
	servers = make(map[string]*server)
	ports := freePorts(t, 5, 0)
	for i, port := range ports[:2] {
		args := []string{"--port", port, "--requirepass", password, "--masterauth", password, "--repl-diskless-sync-delay", "0"}
		if i > 0 {
			args = append(args, "--replicaof", "127.0.0.1 "+ports[0])
		}
		servers["127.0.0.1:"+port] = startServer(t, port, args, "-p", port, "--pass", password, "--no-auth-warning")
	}
	var sentinels []string
	for _, port := range ports[2:] {
		file := filepath.Join(t.TempDir(), "sentinel.conf")
		text := fmt.Sprintf(`
			port %s
			requirepass %q
			sentinel monitor mymaster 127.0.0.1 %s 2
			sentinel auth-pass mymaster %q
			sentinel sentinel-pass %q
			sentinel down-after-milliseconds mymaster 1000
			sentinel failover-timeout mymaster 5000
		`, port, sentinelPassword, ports[0], password, sentinelPassword)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &server{t: t, dir: t.TempDir(), port: port, args: []string{file, "--sentinel", "--bind", "127.0.0.1"}, cli: []string{"-p", port, "--pass", sentinelPassword, "--no-auth-warning"}}
		s.start()
		t.Cleanup(s.kill)
		servers["sentinel "+port] = s
		sentinels = append(sentinels, "127.0.0.1:"+port)
	}
	for name, s := range servers {
		if strings.HasPrefix(name, "sentinel ") {
			within(t, 10*time.Second, "the Sentinels know each other and the replica", func() bool {
				return strings.Contains(s.do("INFO", "sentinel"), "status=ok,address=127.0.0.1:"+ports[0]+",slaves=1,sentinels=3")
			})
		}
	}
	settings := func(addresses ...string) redisstore.Sessions {
		return redisstore.Sessions{
			Addresses: addresses, Password: "{env.REDIS_PASSWORD}",
			Sentinel: &redisstore.Sentinel{Master: "mymaster", Password: "{env.SENTINEL_PASSWORD}"},
		}
	}
	return servers, [2]redisstore.Sessions{settings(sentinels...), settings(sentinels[1], sentinels[0])}
}

// master asks a Sentinel.
func master(servers map[string]*server) *server {
	for name, s := range servers {
		if strings.HasPrefix(name, "sentinel ") {
			fields := strings.Fields(s.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"))
			return servers[strings.Join(fields, ":")]
		}
	}
	return nil
}

// The master dies: the Sentinels name another one, and sessions go on there.
func TestRedisSentinelFailover(t *testing.T) {
	servers, settings := watched(t)
	conforms(t, settings[0], settings[1])
	one, other := open(t, settings[0]), open(t, settings[1])
	uses(t, one, other)
	loads(t, other.LoadCached, "used", 2)
	old := master(servers)
	within(t, 5*time.Second, "the replica has it all", func() bool { return old.do("WAIT", "1", "1000") == "1" })
	old.kill()
	took := within(t, 15*time.Second, "sessions go on", func() bool {
		got, err := one.Load(t.Context(), "used")
		return err == nil && got.Version == 2 && one.Save(t.Context(), "used", record(3, "b")) == nil
	})
	t.Logf("it took %s", took)
	within(t, 5*time.Second, "the other replica sees the change", func() bool {
		got, err := other.LoadCached(t.Context(), "used")
		return err == nil && got.Version == 3
	})
	// Back again, it is a replica, which nobody asks.
	old.start()
	within(t, 20*time.Second, "the old master follows the new one", func() bool {
		return strings.Contains(old.do("INFO", "replication"), "master_link_status:up")
	})
	for version := uint64(4); version < 10; version++ {
		save(t, one, "used", version, "b")
		within(t, time.Second, "the other replica sees the change", func() bool {
			got, err := other.LoadCached(t.Context(), "used")
			return err == nil && got.Version == version
		})
	}
}

// The master is replaced on purpose, and lives: nobody goes on with it.
func TestRedisSentinelSwitchesTheMaster(t *testing.T) {
	servers, settings := watched(t)
	one, other := open(t, settings[0]), open(t, settings[1])
	uses(t, one, other)
	old := master(servers)
	for name, s := range servers {
		if strings.HasPrefix(name, "sentinel ") {
			s.do("SENTINEL", "FAILOVER", "mymaster")
			break
		}
	}
	within(t, 15*time.Second, "there is another master", func() bool { return master(servers) != old })
	within(t, 15*time.Second, "sessions go on", func() bool { return one.Save(t.Context(), "new", record(1, "b")) == nil })
	within(t, 15*time.Second, "on the other replica, too", func() bool {
		got, err := other.LoadCached(t.Context(), "new")
		return err == nil && got.Version == 1
	})
	save(t, one, "new", 2)
	within(t, time.Second, "the other replica sees the change", func() bool {
		got, err := other.LoadCached(t.Context(), "new")
		return err == nil && got.Version == 2
	})
}
