package serve

import (
	"errors"
	"sync"
	"time"

	"mycelium.network/init/internal/system"
)

const longestFreeze = 10 * time.Minute

// Disks are the file systems on disks that are written to, and whether they are frozen.
type Disks struct {
	mu      sync.Mutex
	folders []string
	frozen  bool
	thaw    *time.Timer
}

// Add names where one is mounted.
func (d *Disks) Add(folders ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.folders = append(d.folders, folders...)
}

// Folders are where they are mounted, volumes before the root that carries their places.
func (d *Disks) Folders() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reversed()
}

func (d *Disks) reversed() []string {
	var reversed []string
	for i := len(d.folders) - 1; i >= 0; i-- {
		reversed = append(reversed, d.folders[i])
	}
	return reversed
}

// Freeze lets nothing be written for at most so long, and returns how many file systems it froze.
func (d *Disks) Freeze(most time.Duration) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.frozen {
		return 0, errors.New("the file systems are frozen already")
	}
	if err := system.Freeze(d.reversed()); err != nil {
		return 0, err
	}
	d.frozen = true
	d.thaw = time.AfterFunc(most, func() { d.Thaw() })
	return len(d.folders), nil
}

// Thaw returns how many file systems it thawed: none where none was frozen.
func (d *Disks) Thaw() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.frozen {
		return 0
	}
	d.thaw.Stop()
	system.Thaw(d.reversed())
	d.frozen = false
	return len(d.folders)
}
