package program

import (
	"reflect"
	"testing"
	"time"

	"mycelium.network/init/internal/config"
)

func TestPausesAreKubernetes(t *testing.T) {
	var pauses backoff
	var seconds []int
	for i := 0; i < 8; i++ {
		seconds = append(seconds, int(pauses.after(time.Second)/time.Second))
	}
	if want := []int{0, 10, 20, 40, 80, 160, 300, 300}; !reflect.DeepEqual(seconds, want) {
		t.Error(seconds)
	}
	if pauses.after(goodRun) != 0 || pauses.after(time.Second) != firstPause {
		t.Error("a long run does not begin anew")
	}
}

func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		policy  string
		code    int
		byProbe bool
		want    bool
	}{
		{config.Always, 0, false, true}, {config.Always, 1, false, true},
		{config.OnFailure, 0, false, false}, {config.OnFailure, 1, false, true}, {config.OnFailure, 0, true, true},
		{config.Never, 1, false, false}, {config.Never, 0, true, false},
	} {
		if got := startsAgain(c.policy, c.code, c.byProbe); got != c.want {
			t.Errorf("%+v", c)
		}
	}
}
