"""Networks over sets of entities.

The parts of UPDeT (Hu et al. 2021) in the form of ODIS (Zhang et al. 2023) and HiSSD. Absent entities are masked out of
every attention and every sum, so parameters fit any number of agents and objects. Each agent reads its own tokens only;
mixers and state encoders read those of the team, in training alone.
"""

from mtmarl.networks.entities.agent import Agent, AgentNetwork, choose
from mtmarl.networks.entities.carry import AgentCarry, carry_before, empty_histories, unroll, unroll_agents
from mtmarl.networks.entities.heads import ActionHead, Mixer, TeamValue, Vdn, mix
from mtmarl.networks.entities.inputs import (
    actions_before,
    agent_inputs,
    aimed_at,
    compact,
    entities_of,
    last_actions,
    team_inputs,
    team_of,
    whole,
)
from mtmarl.networks.entities.transformer import (
    Config,
    Embed,
    HistoryTransformer,
    Mlp,
    Seen,
    SetAttention,
    TokenEmbedding,
    Transformer,
    attend,
)
