package program

import (
	"reflect"
	"strings"
	"syscall"
	"testing"
)

const passwd = `root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1::/usr/sbin:
www:x:33:34:the web:/var/www:/bin/false
second:x:33:99::/other:
broken:x:no:1::/:
short:x:7
nohome:x:8:8
`

const group = `root:x:0:root
web:x:34:
ssl:x:70:www,second
games:x:60:daemon,www
bad:x:x:www
`

func TestAccounts(t *testing.T) {
	for user, want := range map[string]Account{
		"":            {0, 0, []int{0}, "/root"},
		"root":        {0, 0, []int{0}, "/root"},
		"www":         {33, 34, []int{70, 60}, "/var/www"},
		"33":          {33, 34, []int{70, 60}, "/var/www"}, // the first entry counts
		"www:games":   {33, 60, []int{}, "/var/www"},
		"www:0":       {33, 0, []int{}, "/var/www"},
		"1000":        {1000, 0, []int{}, "/"},
		"1000:1001":   {1000, 1001, []int{}, "/"},
		"1000:web":    {1000, 34, []int{}, "/"},
		":70":         {0, 70, []int{}, "/root"},
		"nohome":      {8, 8, []int{}, "/"},
		"65534:65534": {65534, 65534, []int{}, "/"},
	} {
		found, err := findAccount(user, strings.NewReader(passwd), strings.NewReader(group))
		if err != nil || !reflect.DeepEqual(found, want) {
			t.Errorf("%q: %+v, %v", user, found, err)
		}
	}
	for _, user := range []string{"nobody", "broken", "www:none", "-1", "99999999999"} {
		if found, err := findAccount(user, strings.NewReader(passwd), strings.NewReader(group)); err == nil {
			t.Errorf("%q: %+v", user, found)
		}
	}
}

func TestNoAccountsAtAll(t *testing.T) {
	found, err := findAccount("0", strings.NewReader(""), strings.NewReader(""))
	if err != nil || found.UID != 0 || found.Home != "/" {
		t.Error(found, err)
	}
}

func TestSignals(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"": 15, "TERM": 15, "SIGTERM": 15, "sigquit": 3, "9": 9, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-14": 50,
		"64": 64, "WINCH": 28,
	} {
		if found, err := ParseSignal(text); err != nil || found != want {
			t.Errorf("%q: %d, %v", text, found, err)
		}
	}
	for _, text := range []string{"0", "65", "SIGNOTHING", "RTMIN+99", "RTMIN-1", "RTMIN+", "-9"} {
		if found, err := ParseSignal(text); err == nil {
			t.Errorf("%q: %d", text, found)
		}
	}
}

func TestEnvironment(t *testing.T) {
	env := environment([]string{"A=1", "PATH=/x", "A=2", "EMPTY="}, Account{Home: "/home/u"})
	if env[0] != "A=2" || lookup(env, "PATH") != "/x" || lookup(env, "HOME") != "/home/u" || len(env) != 5 {
		t.Error(env)
	}
	if lookup(environment(nil, Account{}), "PATH") != defaultPath {
		t.Error("no PATH")
	}
}
