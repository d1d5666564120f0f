module mycelium.network/init

go 1.19
