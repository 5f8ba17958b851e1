// Go at work: hundreds of goroutines, channels, timers, garbage.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const limit = 30 * time.Second

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func waitFor(what string, condition func() bool) {
	for start := time.Now(); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Since(start) > limit {
			fail("waited in vain for %s", what)
		}
	}
}

// stage speaks the protocol of tests/victims/harness/stage.rs.
type stage struct {
	dir      string
	round    int
	deadline time.Time
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (s *stage) next() bool {
	draft := filepath.Join(s.dir, ".draft")
	if err := os.WriteFile(draft, nil, 0o666); err != nil {
		fail("%v", err)
	}
	if err := os.Rename(draft, filepath.Join(s.dir, fmt.Sprintf("ready-%d", s.round))); err != nil {
		fail("%v", err)
	}
	goOn := filepath.Join(s.dir, fmt.Sprintf("go-%d", s.round))
	end := filepath.Join(s.dir, "end")
	s.round++
	for {
		if exists(goOn) {
			return true
		}
		if exists(end) {
			return false
		}
		if time.Now().After(s.deadline) {
			fail("abandoned by the harness")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// chain hashes a hash, over and over.
type chain struct {
	sync.Mutex
	first, digest [32]byte
	links         int
}

func (c *chain) run() {
	for {
		c.Lock()
		c.digest = sha256.Sum256(c.digest[:])
		c.links++
		c.Unlock()
		_ = make([]byte, 4096)
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *chain) count() int {
	c.Lock()
	defer c.Unlock()
	return c.links
}

func (c *chain) check(before int) {
	waitFor("a chain", func() bool { return c.count() > before })
	c.Lock()
	defer c.Unlock()
	again := c.first
	for i := 0; i < c.links; i++ {
		again = sha256.Sum256(again[:])
	}
	if again != c.digest {
		fail("a chain is broken")
	}
}

func main() {
	chains := make([]*chain, 200)
	for i := range chains {
		first := sha256.Sum256([]byte{byte(i)})
		chains[i] = &chain{first: first, digest: first}
		go chains[i].run()
	}
	var ticks atomic.Int64
	go func() {
		for range time.Tick(10 * time.Millisecond) {
			ticks.Add(1)
		}
	}()
	questions, answers := make(chan int), make(chan int)
	go func() {
		for n := range questions {
			answers <- n * 2
		}
	}()
	s := stage{dir: os.Getenv("ICECORE_STAGE"), deadline: time.Now().Add(300 * time.Second)}
	for s.next() {
		before := ticks.Load()
		waitFor("ticks", func() bool { return ticks.Load() > before+3 })
		counts := make([]int, len(chains))
		for i, c := range chains {
			counts[i] = c.count()
		}
		for i, c := range chains {
			c.check(counts[i])
		}
		questions <- 21
		if <-answers != 42 {
			fail("a goroutine cannot multiply any more")
		}
		runtime.GC()
		start := time.Now()
		time.Sleep(50 * time.Millisecond)
		if slept := time.Since(start); slept < 49*time.Millisecond || slept > limit {
			fail("50 ms took %v", slept)
		}
	}
}
