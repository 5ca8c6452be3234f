package redis

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/redisstore"
)

// newCluster starts three masters with a replica each.
func newCluster(t *testing.T) (nodes map[string]*server, replicas [2]redisstore.Sessions) {
	t.Helper()
	const busAbove = 10000
	nodes = make(map[string]*server)
	var addresses []string
	for _, port := range freePorts(t, 6, busAbove) {
		s := startServer(t, port, []string{
			"--port", port, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0",
		}, "-p", port)
		nodes[port] = s
		addresses = append(addresses, s.address())
	}
	create := exec.Command("redis-cli", append(append([]string{"--cluster", "create"}, addresses...), "--cluster-replicas", "1", "--cluster-yes")...)
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("creating the cluster: %v\n%s", err, out)
	}
	for _, s := range nodes {
		within(t, 20*time.Second, "the cluster is whole", func() bool {
			replication := s.do("INFO", "replication")
			return strings.Contains(s.do("CLUSTER", "INFO"), "cluster_state:ok") &&
				(strings.Contains(replication, "connected_slaves:1") || strings.Contains(replication, "master_link_status:up"))
		})
	}
	return nodes, [2]redisstore.Sessions{
		{Addresses: addresses[:1], Cluster: true},
		{Addresses: slices.Concat(addresses[3:], addresses[:3])},
	}
}

// owner gives the node whose key it is.
func owner(nodes map[string]*server, key string) *server {
	for _, s := range nodes {
		slot := s.do("CLUSTER", "KEYSLOT", key)
		var n, from, to int
		_, _ = fmt.Sscan(slot, &n)
		for line := range strings.Lines(s.do("CLUSTER", "NODES")) {
			if fields := strings.Fields(line); strings.HasPrefix(fields[2], "myself,master") {
				for _, slots := range fields[8:] {
					if count, _ := fmt.Sscanf(slots, "%d-%d", &from, &to); count == 2 && from <= n && n <= to {
						return s
					}
				}
			}
		}
	}
	return nil
}

// A master of a cluster dies, and its replica takes over.
func TestRedisClusterFailover(t *testing.T) {
	nodes, settings := newCluster(t)
	conforms(t, settings[0], settings[1])
	one, other := open(t, settings[0]), open(t, settings[1])
	uses(t, one, other)
	loads(t, other.LoadCached, "used", 2)
	old := owner(nodes, "pkce_auth:r:used")
	within(t, 5*time.Second, "the replica has it all", func() bool { return old.do("WAIT", "1", "1000") == "1" })
	old.kill()
	took := within(t, 20*time.Second, "sessions go on", func() bool {
		got, err := one.Load(t.Context(), "used")
		return err == nil && got.Version == 2 && one.Save(t.Context(), "used", record(3)) == nil
	})
	t.Logf("it took %s", took)
	within(t, 10*time.Second, "the other replica sees the change", func() bool {
		got, err := other.LoadCached(t.Context(), "used")
		return err == nil && got.Version == 3
	})
}

// Many records on all nodes: hot ones cost nothing, and changes are heard of,
// also when masters have changed places with their replicas.
func TestRedisClusterCaches(t *testing.T) {
	nodes, settings := newCluster(t)
	one, other := open(t, settings[0]), open(t, settings[1])
	const count = 30
	name := func(i int) string { return fmt.Sprintf("many-%d", i) }
	for i := range count {
		save(t, one, name(i), 1, fmt.Sprintf("sub-%d", i), "all")
		loads(t, other.LoadCached, name(i), 1)
		loads(t, other.LoadCached, name(i), 1)
	}
	gets := func() (sum int) {
		for _, s := range nodes {
			sum += s.calls("get")
		}
		return sum
	}
	before := gets()
	for range 20 {
		for i := range count {
			loads(t, other.LoadCached, name(i), 1)
		}
	}
	if got := gets() - before; got > count {
		t.Errorf("600 hot loads took %d GETs", got)
	}
	if found, err := one.Find(t.Context(), "all"); err != nil || len(found) != count {
		t.Errorf("the index has %d keys, %v", len(found), err)
	}
	for version := uint64(2); version < 4; version++ {
		for i := range count {
			within(t, 10*time.Second, "it can be saved", func() bool {
				return one.Save(t.Context(), name(i), record(version, "all")) == nil
			})
			within(t, time.Second, "the other replica sees the change", func() bool {
				got, err := other.LoadCached(t.Context(), name(i))
				return err == nil && got.Version == version
			})
		}
		old := owner(nodes, "pkce_auth:r:"+name(0))
		for _, s := range nodes {
			if strings.Contains(s.do("INFO", "replication"), "master_port:"+old.port) {
				s.do("CLUSTER", "FAILOVER")
			}
		}
		within(t, 10*time.Second, "they have changed places", func() bool { now := owner(nodes, "pkce_auth:r:"+name(0)); return now != nil && now != old })
	}
}
